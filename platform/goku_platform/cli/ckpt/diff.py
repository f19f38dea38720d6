"""`ckpt diff`: how far two checkpoints lie apart."""

from typing import TYPE_CHECKING, Annotated

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku_platform.runs.checkpoints.diff import Change, Difference


def diff(
    run: options.RunName,
    one: Annotated[int, typer.Argument(metavar="STEP", help="A step.")],
    other: Annotated[int, typer.Argument(metavar="STEP", help="Another step.")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="RUN", help="The other step is one of this run."),
    ] = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Compare two checkpoints: numbers, shapes, and every value. Exit 0, equal or not."""
    from goku_platform.cli.ckpt.progress import progress
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.checkpoints.diff import diff, side

    with limit(timeout, "ckpt diff"):
        first, _, _ = options.choose(run, profile, store, timeout)
        second, _, _ = options.choose(against or run, profile, store, timeout)
        sides = side(first, one), side(second, other)
    with progress("diff", sum(each.manifest.nbytes for each in sides)) as tell:
        found = diff(*sides, tell)
    if as_json:
        emit_json(found)
    else:
        _print(found)


def _print(found: "Difference") -> None:
    from goku_platform.cli.output import table

    typer.echo(f"{found.one}, {found.other}: {found.same} tensors are equal")
    if found.numbers:
        rows = ((one.name, *map(str, one.values)) for one in found.numbers)
        table(("number", "first", "second"), rows)
    if found.changes:
        table(("tensor", "differs in", "elements", "largest"), map(_row, found.changes))


def _row(change: "Change") -> tuple[str, ...]:
    if change.elements is None:
        return change.name, change.what, "-", "-"
    largest = "not finite" if change.largest is None else f"{change.largest:.3g}"
    return change.name, change.what, str(change.elements), largest
