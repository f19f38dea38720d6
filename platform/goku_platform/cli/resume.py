"""`resume`: start the next attempt at a run."""

from typing import Annotated

import typer

from goku_platform.cli import options


def resume(
    run: options.RunName,
    overrides: options.World = None,
    kind: options.KindOfJob = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Take over a run that is alive elsewhere: only the new attempt can commit.",
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run; exit with its exit code.")
    ] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Continue a run from what it has kept.

    On the same world, or on another with --set parallel.nodes=..., and as any kind of job. What
    it computes does not change.
    """
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, warn
    from goku_platform.cli.waiting import follow
    from goku_platform.runs.resume import resume
    from goku_platform.version import code_version

    with limit(timeout, "resume"):
        found, settings, client = options.choose(run, profile, store, timeout, kind)
        begun = resume(
            found,
            settings,
            client,
            code_version=code_version(),
            overrides=tuple(overrides or ()),
            force=force,
        )
    warn(begun.warnings)
    if as_json:
        emit_json(
            {
                "name": found.name,
                "uri": found.uri,
                "from_step": begun.from_step,
                "nodes": begun.spec.nodes,
                "processes_per_node": begun.spec.processes_per_node,
                "kind": begun.spec.placement.kind,
                "why": begun.why,
            }
        )
    else:
        begins = "" if begun.from_step is None else f" from step {begun.from_step}"
        typer.echo(
            f"{found.name} resumes{begins}. Watch it: goku-platform status {found.name} --watch"
        )
    if wait:
        follow(found, client, to_stderr=as_json)
