"""`launch`: start a preset as a run."""

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku.config import RunConfig
    from goku_platform.settings import Profile


def launch(
    preset: options.PresetName,
    size: options.Size = "2b",
    name: options.Name = None,
    start_from: options.StartFrom = None,
    overrides: options.Overrides = None,
    kind: options.KindOfJob = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan and what is missing; needs no cluster."),
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what would change on the cluster; start nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Start a run that exists again: one that is done, for what is new since, or one "
            "that is alive elsewhere; only the new attempt can commit.",
        ),
    ] = False,
    yes: options.Yes = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run; exit with its exit code.")
    ] = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Start a preset as a run.

    First every check that doctor makes, then the plan: layout, memory, time, price, what is there
    already under the name. On a cluster it asks before it starts anything.
    """
    from goku_platform.version import code_version

    if dry_run and diff:
        raise typer.BadParameter("--dry-run asks no cluster, and --diff does: give one of them")
    profiled = options.load(profile, store, kind)
    config = options.compose(
        profiled, preset, size=size, name=name, start_from=start_from, overrides=overrides
    )
    asked = _Asked(config, profiled, code_version(), size, timeout, as_json)
    if dry_run:
        _dry_run(asked)
    elif diff:
        _diff(asked)
    else:
        _launch(asked, force=force, yes=yes, wait=wait)


class _Asked(NamedTuple):
    """What the arguments say, whichever way it goes on."""

    config: "RunConfig"
    profile: "Profile"
    version: str
    size: str
    timeout: float
    as_json: bool


def _dry_run(asked: _Asked) -> None:
    from goku_platform.cli import plan
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, warn
    from goku_platform.runs.launch import draft

    with limit(asked.timeout, "launch --dry-run"):
        prepared = draft(asked.config, asked.profile.settings, code_version=asked.version)
    warn(prepared.report.warnings)
    if asked.as_json:
        emit_json(plan.record(prepared, asked.profile, started=False))
    else:
        plan.show(prepared, asked.size, asked.profile)
        plan.show_findings(prepared)


def _diff(asked: _Asked) -> None:
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.launch import diff

    settings = asked.profile.settings
    with limit(asked.timeout, "launch --diff"):
        client = options.client(settings, asked.timeout)
        changes = diff(asked.config, settings, client, code_version=asked.version)
    if asked.as_json:
        emit_json({"name": asked.config.name, "diff": changes})
    else:
        typer.echo(changes or "nothing would change", nl=not changes)


def _launch(asked: _Asked, *, force: bool, yes: bool, wait: bool) -> None:
    from goku_platform.cli import plan
    from goku_platform.cli.consent import ask
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, warn
    from goku_platform.cli.waiting import follow
    from goku_platform.runs.launch import launch, prepare

    settings, version = asked.profile.settings, asked.version
    client = options.client(settings, asked.timeout)
    with limit(asked.timeout, "launch"):
        prepared = prepare(asked.config, settings, client, code_version=version, force=force)
    warn(prepared.report.warnings)
    if not asked.as_json:
        plan.show(prepared, asked.size, asked.profile)
    if settings.target == "kubernetes":
        ask(f"Start {asked.config.name}?", yes=yes, verb="launch")
    with limit(asked.timeout, "launch"):  # the answer's time did not count
        run = launch(prepared, client, code_version=version, force=force)
    if asked.as_json:
        emit_json(plan.record(prepared, asked.profile, started=True))
    if wait:
        follow(run, client, to_stderr=asked.as_json)
    if not asked.as_json:
        typer.echo(f"started. Watch it: goku-platform status {run.name} --watch")
