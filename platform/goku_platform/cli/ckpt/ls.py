"""`ckpt ls`: what a run has kept."""

from typing import TYPE_CHECKING

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku_platform.runs.checkpoints.look import Checkpoint


def ls(
    run: options.RunName,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """List checkpoints; sizes are checked, bytes are not read."""
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, table
    from goku_platform.runs.checkpoints.look import listing

    with limit(timeout, "ckpt ls"):
        found, _, _ = options.choose(run, profile, store, timeout)
        kept = listing(found)
    if as_json:
        emit_json(kept)
    elif kept:
        columns = ("step", "state", "size", "files", "attempt", "samples", "world", "written")
        table(columns, (_row(checkpoint) for checkpoint in kept))
    else:
        typer.echo(f"{found.name} has no checkpoint yet")


def _row(checkpoint: "Checkpoint") -> tuple[str, ...]:
    from goku_platform.cli.output import count, moment, size

    return (
        str(checkpoint.step),
        _state(checkpoint),
        size(checkpoint.nbytes),
        count(checkpoint.files),
        count(checkpoint.attempt),
        count(checkpoint.samples_seen),
        count(checkpoint.world_size),
        moment(checkpoint.created_at),
    )


def _state(checkpoint: "Checkpoint") -> str:
    if not checkpoint.complete:
        return f"incomplete: {'; '.join(checkpoint.problems)}"
    return "set aside" if checkpoint.set_aside else "complete"
