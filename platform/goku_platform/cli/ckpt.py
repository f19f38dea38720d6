"""`ckpt ls` and `ckpt verify`: a run's checkpoints."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku_platform.runs.checkpoints import Checkpoint

app = typer.Typer(help="List and verify a run's checkpoints.", no_args_is_help=True)


@app.command("ls")
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
    from goku_platform.runs.checkpoints import listing

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


@app.command("verify")
def verify(
    run: options.RunName,
    step: Annotated[int | None, typer.Option(help="This step; the newest by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every committed checkpoint.")] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Read every byte and compare; exit 1 if one has changed."""
    from goku.contract.exits import Exit
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, size
    from goku_platform.runs.checkpoints import verified

    with limit(timeout, "ckpt verify"):
        found, _, _ = options.choose(run, profile, store, timeout)
    looked = verified(found, step=step, every=every)
    if as_json:
        emit_json(looked)
    for checkpoint in looked:
        for problem in checkpoint.problems:
            typer.echo(f"error: step {checkpoint.step}: {problem}", err=True)
        if checkpoint.complete and not as_json:
            kept = f"{checkpoint.files} files, {size(checkpoint.nbytes)}"
            typer.echo(f"step {checkpoint.step}: {kept}, all as written")
    if not all(checkpoint.complete for checkpoint in looked):
        raise typer.Exit(Exit.USER_ERROR)


def _row(checkpoint: "Checkpoint") -> tuple[str, ...]:
    from goku_platform.cli.output import count, size

    at = checkpoint.created_at
    return (
        str(checkpoint.step),
        "complete" if checkpoint.complete else f"incomplete: {'; '.join(checkpoint.problems)}",
        size(checkpoint.nbytes),
        count(checkpoint.files),
        count(checkpoint.attempt),
        count(checkpoint.samples_seen),
        count(checkpoint.world_size),
        datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ") if at else "-",
    )
