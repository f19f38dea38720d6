"""`ckpt show`: what one checkpoint holds."""

from typing import TYPE_CHECKING, Annotated

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku_platform.runs.checkpoints.show import Shown

_FILES = 20  # that a person looks at


def show(
    run: options.RunName,
    step: Annotated[
        int | None, typer.Option(help="This step; the latest by default.", show_default=False)
    ] = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Show what a checkpoint holds: where training stood, tensors by kind, files."""
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.checkpoints.show import shown

    with limit(timeout, "ckpt show"):
        found, _, _ = options.choose(run, profile, store, timeout)
        checkpoint = shown(found, step)
    if as_json:
        emit_json(checkpoint)
    else:
        _print(checkpoint)


def _print(one: "Shown") -> None:
    from goku_platform.cli.output import count, facts, moment, size, table

    facts(
        {
            "checkpoint": f"{one.run} step {one.step}",
            "state": "; ".join(one.problems) or "complete",
            "written": f"{moment(one.created_at)} by attempt {one.attempt}",
            "training": f"{one.samples_seen} samples, {one.optimizer_steps} optimizer steps",
            "world": f"{one.world_size} ranks",
            "config": one.config_digest,
            "code": one.code_version,
            "size": size(one.nbytes),
        }
    )
    typer.echo()
    table(
        ("kind", "tensors", "elements", "size", "dtype"),
        (
            (kind.name, str(kind.tensors), count(kind.elements), size(kind.nbytes),
             ", ".join(kind.dtypes))
            for kind in one.kinds
        ),
    )  # fmt: skip
    typer.echo()
    rows = ((file.name, size(file.nbytes), str(file.pieces)) for file in one.files[:_FILES])
    table(("file", "size", "pieces"), rows)
    if len(one.files) > _FILES:
        typer.echo(f"and {len(one.files) - _FILES} more: --json has them all")
