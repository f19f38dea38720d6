"""`doctor`: the checks of a launch alone."""

from typing import TYPE_CHECKING, Annotated

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goku_platform.cluster.client import Check

_WORDS = {True: "ok", False: "failed", None: "unknown"}


def doctor(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET",
            autocompletion=options._presets,
            help="Also check what this preset reads, its name and its gang.",
        ),
    ] = None,
    size: options.Size = "2b",
    name: options.Name = None,
    start_from: options.StartFrom = None,
    overrides: options.Overrides = None,
    kind: options.KindOfJob = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Check what a launch needs, and start nothing.

    Without a preset: the store and the target, with a job of one process. With one: also what
    it reads, whether its name is free, its times and its gang. Exit 1 if a check fails.
    """
    from goku.contract.exits import Exit
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, warn
    from goku_platform.runs.doctor import doctor
    from goku_platform.version import code_version

    chosen = options.load(profile, store, kind)
    config = options.compose(
        chosen,
        preset or "stage1",  # any: it only lends its shape
        size=size if preset else "tiny",
        name=name,
        start_from=start_from,
        overrides=overrides if preset else ["parallel.processes_per_node=1"],
    )
    client = options.client(chosen.settings, timeout)
    with limit(timeout, "doctor"):
        report = doctor(
            config,
            chosen.settings,
            client,
            code_version=code_version(),
            run=preset is not None,
        )
    warn(report.warnings)
    if as_json:
        emit_json([check._asdict() for check in report.checks])
    else:
        _show(report.checks)
    if report.failed:
        raise typer.Exit(Exit.USER_ERROR)


def _show(checks: "Sequence[Check]") -> None:
    """A line for each, and below it what to do: whole, so that it can be copied."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        typer.echo(f"{_WORDS[check.ok]:<7}  {check.name:<{width}}  {check.detail}")
        if check.ok is not True and check.fix:
            typer.echo(f"{'':<7}  {'':<{width}}  -> {check.fix}")
