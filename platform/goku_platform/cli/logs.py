"""`logs`: what a run's processes printed."""

from typing import Annotated

import typer

from goku_platform.cli import options


def logs(
    run: options.RunName,
    attempt: Annotated[
        int | None,
        typer.Option(help="Attempt; the newest by default.", show_default=False),
    ] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="The attempt before the newest.")
    ] = False,
    rank: Annotated[
        int | None, typer.Option(help="Only this rank's lines.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each line as a JSON object.")
    ] = False,
) -> None:
    """Print the logs of a run.

    The store keeps those of every attempt, also when its pods are gone. Until an attempt has
    shipped its first lines they are read from the pods.
    """
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_line
    from goku_platform.runs.logs import logs

    with limit(timeout, "logs"):
        found, _, client = options.choose(run, profile, store, timeout)
    lines = logs(found, client, attempt=attempt, previous=previous, rank=rank, follow=follow)
    while True:
        if follow:  # lines may be hours apart
            line = next(lines, None)
        else:
            with limit(timeout, "logs"):
                line = next(lines, None)
        if line is None:
            return
        if as_json:
            emit_line({"line": line})
        else:
            typer.echo(line)
