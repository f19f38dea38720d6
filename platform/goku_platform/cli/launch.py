"""`launch`: start a preset as a run."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku_platform.jobs.estimate import Estimate
    from goku_platform.runs.launch import Prepared
    from goku_platform.settings import Profile


def launch(
    preset: options.PresetName,
    size: options.Size = "2b",
    name: options.Name = None,
    start_from: options.StartFrom = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    overrides: options.Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and estimate; start nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run; exit with its exit code.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Start a preset as a run."""
    from goku_platform.cli.output import emit_json, warn
    from goku_platform.cli.waiting import follow
    from goku_platform.runs.compose import Request, compose
    from goku_platform.runs.launch import launch, prepare
    from goku_platform.version import code_version

    chosen = options.load(profile, store)
    client, version = options.client(chosen.settings), code_version()
    request = Request(
        preset=preset, size=size, name=name, start_from=start_from, overrides=tuple(overrides or ())
    )
    config = compose(request, store=chosen.settings.store)
    prepared = prepare(config, chosen.settings, client, code_version=version)
    warn(prepared.warnings)
    if as_json:
        emit_json(_record(prepared, chosen, started=not dry_run))
    else:
        _describe(prepared, size, chosen)
    if dry_run:
        return
    run = launch(prepared, client, code_version=version)
    if wait:
        follow(run, client, to_stderr=as_json)
    if not as_json:
        typer.echo(f"started. Watch it: goku-platform status {run.name}")


def _describe(prepared: "Prepared", size: str, profile: "Profile") -> None:
    from goku_platform.cli.output import facts

    spec, settings = prepared.spec, profile.settings
    facts(
        {
            "run": spec.run_uri,
            "job": f"{spec.job} ({prepared.config.preset}, {size})",
            "target": f"{settings.target}: {spec.nodes} x {spec.processes_per_node} processes",
            **_numbers(prepared.estimate),
        }
    )


def _numbers(estimate: "Estimate") -> dict[str, str | None]:
    from goku_platform.cli.output import count, duration, size

    if estimate.checkpoint_bytes is None:
        return {}
    return {
        "parameters": count(estimate.parameters),
        "step": f"at most {count(estimate.tokens_per_step)} tokens",
        "checkpoint": f"{size(estimate.checkpoint_bytes)}, a slow save "
        f"{duration(estimate.save_seconds)}",
        "memory": f"{size(estimate.state_bytes_per_process)} of state a process, "
        "activations come on top",
    }


def _record(prepared: "Prepared", profile: "Profile", *, started: bool) -> dict[str, Any]:
    spec = prepared.spec
    return {
        "name": spec.name,
        "uri": spec.run_uri,
        "started": started,
        "nodes": spec.nodes,
        "processes_per_node": spec.processes_per_node,
        "estimate": asdict(prepared.estimate),
        "warnings": prepared.warnings,
        "settings": profile.explain(),
        "config": prepared.config,
    }
