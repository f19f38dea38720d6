"""`ckpt promote`: go on from an older step."""

from typing import Annotated

import typer

from goku_platform.cli import options


def promote(
    run: options.RunName,
    step: Annotated[int, typer.Argument(metavar="STEP", help="The step to go on from.")],
    yes: options.Yes = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Make an older step the one that a resume goes on from.

    Every byte of it is read first. Later checkpoints are set aside, not deleted: promote one of
    them to go back. Training takes their place as it passes them.
    """
    from goku_platform.cli.ckpt.progress import progress
    from goku_platform.cli.consent import ask
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.checkpoints.promote import plan, promote

    with limit(timeout, "ckpt promote"):
        found, _, client = options.choose(run, profile, store, timeout)
        planned = plan(found, client, step)
    aside = ", ".join(map(str, planned.set_aside)) or "nothing"
    question = f"Go on from step {step} of {found.name}, and set aside {aside}?"
    ask(question, yes=yes, verb="ckpt promote")
    with progress(f"verify step {step}", planned.nbytes) as tell:
        done = promote(found, client, step, tell)
    if as_json:
        emit_json(done)
    else:
        typer.echo(f"{found.name} goes on from step {step}; set aside: {aside}")
