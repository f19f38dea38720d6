"""`ckpt verify`: read every byte."""

from typing import Annotated

import typer

from goku_platform.cli import options


def verify(
    run: options.RunName,
    step: Annotated[
        int | None, typer.Option(help="This step; the newest by default.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every committed checkpoint.")] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Read every byte and compare; exit 1 if one has changed."""
    from goku.contract.exits import Exit
    from goku_platform.cli.ckpt.progress import progress
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, size
    from goku_platform.runs.checkpoints.verify import chosen, verified

    with limit(timeout, "ckpt verify"):
        found, _, _ = options.choose(run, profile, store, timeout)
        kept = chosen(found, step=step, every=every)
    with progress("verify", sum(one.nbytes or 0 for one in kept)) as tell:
        looked = verified(found, kept, tell)
    if as_json:
        emit_json(looked)
    for checkpoint in looked:
        for problem in checkpoint.problems:
            typer.echo(f"error: step {checkpoint.step}: {problem}", err=True)
        if checkpoint.complete and not as_json:
            files = f"{checkpoint.files} files, {size(checkpoint.nbytes)}"
            typer.echo(f"step {checkpoint.step}: {files}, all as written")
    if not all(checkpoint.complete for checkpoint in looked):
        raise typer.Exit(Exit.USER_ERROR)
