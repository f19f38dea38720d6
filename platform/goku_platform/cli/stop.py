"""`stop`: have a run save and leave."""

from typing import Annotated

import typer

from goku_platform.cli import options


def stop(
    run: options.RunName,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds to wait; the run's grace by default.", show_default=False
        ),
    ] = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    as_json: options.Json = False,
) -> None:
    """Ask a run to save and leave, and wait for it."""
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.stop import stop

    found, _, client = options.choose(run, profile, store)
    stop(found, client, timeout_seconds=timeout)
    latest = found.latest()
    step = latest.step if latest else None
    if as_json:
        emit_json({"name": found.name, "uri": found.uri, "durable_step": step})
    else:
        kept = "" if step is None else f", step {step} is durable"
        typer.echo(f"{found.name} has ended{kept}. Continue: goku-platform resume {found.name}")
