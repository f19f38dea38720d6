"""`logs`: what a run's processes printed."""

from typing import Annotated

import typer

from goku_platform.cli import options


def logs(
    run: options.RunName,
    attempt: Annotated[int | None, typer.Option(help="Attempt; the newest by default.")] = None,
    rank: Annotated[int | None, typer.Option(help="Only this rank's lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
) -> None:
    """Print the logs of a run, kept in the store for every attempt."""
    from goku_platform.runs.logs import logs

    found, _, client = options.choose(run, profile, store)
    for line in logs(found, client, attempt=attempt, rank=rank, follow=follow):
        typer.echo(line)
