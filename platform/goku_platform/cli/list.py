"""`list`: the runs of a store."""

from typing import TYPE_CHECKING

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku_platform.runs.listing import Line


def list_runs(
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """List the runs in the store.

    With their states, the most recently active first.
    """
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, table
    from goku_platform.runs.listing import listing

    settings = options.load(profile, store).settings
    with limit(timeout, "list"):
        lines = listing(settings.store, options.client(settings, timeout))
    if as_json:
        emit_json(lines)
    elif lines:
        columns = ("run", "state", "preset", "step", "attempts", "active", "")
        table(columns, (_row(line) for line in lines))
    else:
        typer.echo(f"{settings.store} holds no runs: launch one, or name another with --store")


def _row(line: "Line") -> tuple[str, ...]:
    from goku_platform.cli.output import ago, number

    step = number(line.step)
    return (
        line.name,
        line.state,
        line.preset or "-",
        step if line.target_step is None else f"{step} of {line.target_step}",
        str(line.attempts),
        ago(line.active_at),
        line.problem or line.waiting,
    )
