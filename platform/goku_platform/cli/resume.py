"""`resume`: start the next attempt at a run."""

from typing import Annotated

import typer

from goku_platform.cli import options


def resume(
    run: options.RunName,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another world: parallel.* only."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run; exit with its exit code.")
    ] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    as_json: options.Json = False,
) -> None:
    """Continue a run from what it has kept."""
    from goku_platform.cli.output import emit_json, warn
    from goku_platform.cli.waiting import follow
    from goku_platform.runs.resume import resume
    from goku_platform.version import code_version

    found, settings, client = options.choose(run, profile, store)
    warn(
        resume(
            found,
            settings,
            client,
            code_version=code_version(),
            overrides=tuple(overrides or ()),
        )
    )
    latest = found.latest()
    step = latest.step if latest else None
    if as_json:
        emit_json({"name": found.name, "uri": found.uri, "from_step": step})
    else:
        begins = "" if step is None else f" from step {step}"
        typer.echo(f"{found.name} resumes{begins}. Watch it: goku-platform status {found.name}")
    if wait:
        follow(found, client, to_stderr=as_json)
