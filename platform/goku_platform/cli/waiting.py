"""`--wait`: print a run's lines as they come, then leave with its exit code."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from goku.contract.rundir import RunDir
    from goku_platform.cluster.client import Client


def follow(run: "RunDir", client: "Client", *, to_stderr: bool = False) -> None:
    """Raises typer.Exit with the supervisor's code. Ctrl-C ends the watching, not the run."""
    from goku_platform.runs import wait

    try:
        for line in wait.follow(run, client):
            typer.echo(line, err=to_stderr)
    except KeyboardInterrupt:
        typer.echo(
            f"\n{run.name} goes on. Watch it: goku-platform logs {run.name} --follow. "
            f"End it: goku-platform stop {run.name}",
            err=True,
        )
        raise
    code = wait.exit_code(run, client)
    if code:
        typer.echo(f"error: ended with code {code}: goku-platform status {run.name}", err=True)
    raise typer.Exit(code)
