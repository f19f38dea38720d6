"""`delete`: remove a run's job, and its data only when told so."""

from typing import TYPE_CHECKING, Annotated

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goku_platform.runs.delete import Doomed


def delete(
    run: options.RunName,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Its checkpoints too: it could only begin anew."),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All that the store has of it: nothing is left.")
    ] = False,
    yes: options.Yes = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Remove the job of a run that is over.

    The store is not touched, unless --checkpoints or --all says so; then it shows what will go,
    and asks.
    """
    from goku_platform.cli.consent import ask
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.delete import Part, delete, doomed

    part = Part.ALL if everything else Part.CHECKPOINTS if checkpoints else Part.NOTHING
    with limit(timeout, "delete"):
        found, _, client = options.choose(run, profile, store, timeout)
        going = doomed(found, client, part)
    if part is not Part.NOTHING:
        _show(found.uri, going, err=as_json)
        ask(f"Delete this of {found.name} for good?", yes=yes, verb="delete")
    with limit(timeout, "delete"):
        delete(found, client, part)
    if as_json:
        emit_json({"name": found.name, "uri": found.uri, "deleted": list(going)})
    elif part is Part.NOTHING:
        typer.echo(f"{found.name} has no job any more; the store still has all of it")
    else:
        typer.echo(f"{found.name}: deleted")


def _show(uri: str, going: "Sequence[Doomed]", *, err: bool) -> None:
    from goku_platform.cli.output import size

    typer.echo(f"in {uri}:", err=err)
    for one in going:
        typer.echo(f"  {one.name:<12}  {one.files} files, {size(one.nbytes)}", err=err)
    total = sum(one.nbytes for one in going)
    typer.echo(f"  {size(total)} in all" if going else "  nothing", err=err)
