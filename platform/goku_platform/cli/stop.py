"""`stop`: have a run save and leave."""

from typing import Annotated

import typer

from goku_platform.cli import options

_MARGIN_SECONDS = 30.0  # for the looks before and after the wait


def stop(
    run: options.RunName,
    now: Annotated[
        bool, typer.Option("--now", help="End it at once; what is not saved is lost.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0,
            help="Seconds to wait; the run's grace by default.",
            show_default=False,
        ),
    ] = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    as_json: options.Json = False,
) -> None:
    """Ask a run to save and leave, and wait for it.

    What it has kept stays in the store, and resume goes on from there.
    """
    from goku.contract.attempts import Ledger
    from goku.contract.exits import Cause
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.stop import patience, stop

    with limit(options.SECONDS if timeout is None else timeout + _MARGIN_SECONDS, "stop"):
        found, _, client = options.choose(run, profile, store, options.SECONDS)
        seconds = patience(found, now=now) if timeout is None else timeout
    with limit(seconds + _MARGIN_SECONDS, "stop"):
        stop(found, client, now=now, timeout_seconds=seconds)
        latest, last = found.newest(), Ledger(found).last()
    step = latest.step if latest else None
    if as_json:
        emit_json({"name": found.name, "uri": found.uri, "durable_step": step})
    else:
        kept = "" if step is None else f", step {step} is durable"
        done = last is not None and last.cause is Cause.DONE
        then = "It is done." if done else f"Continue: goku-platform resume {found.name}"
        typer.echo(f"{found.name} has ended{kept}. {then}")
