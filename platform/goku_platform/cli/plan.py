"""The plan that `launch` shows before it does anything, for people and as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from goku.config import RunConfig
    from goku_platform.cli.output import Facts
    from goku_platform.jobs.estimate import Estimate
    from goku_platform.runs.launch import Prepared
    from goku_platform.settings import Profile, Settings

_ON_CPUS = "not predicted on CPUs"


def show(prepared: "Prepared", size: str, profile: "Profile") -> None:
    """Print the plan."""
    from goku_platform.cli.output import facts

    config, spec, settings = prepared.config, prepared.spec, profile.settings
    facts(
        {
            "run": spec.run_uri,
            "exists": str(prepared.existing or "the store could not be read"),
            "job": f"{spec.job} ({config.preset}, {size})",
            "target": _target(prepared, settings),
            "nodes": _nodes(prepared),
            **(_training(config, prepared.estimate, settings) if _trains(prepared) else {}),
        }
    )


def show_findings(prepared: "Prepared") -> None:
    """Print what would refuse the launch, on stdout: it is the answer to a dry run."""
    failed = prepared.report.failed
    for check in failed:
        typer.echo(f"would refuse  {check.name}: {check.detail}. {check.fix}".rstrip())
    if not failed:
        typer.echo("nothing was started; the store and the target have not been tried")


def record(prepared: "Prepared", profile: "Profile", *, started: bool) -> dict[str, Any]:
    """The plan as plain data."""
    spec, existing = prepared.spec, prepared.existing
    return {
        "name": spec.name,
        "uri": spec.run_uri,
        "started": started,
        "exists": existing.there if existing else None,
        "kind": spec.placement.kind,
        "why": prepared.why,
        "nodes": spec.nodes,
        "processes_per_node": spec.processes_per_node,
        "gpus": spec.nodes * spec.resources.gpus,
        "estimate": asdict(prepared.estimate),
        "checks": [check._asdict() for check in prepared.report.checks],
        "warnings": prepared.report.warnings,
        "settings": profile.explain(),
        "config": prepared.config,
    }


def _trains(prepared: "Prepared") -> bool:
    return prepared.estimate.checkpoint_bytes is not None


def _target(prepared: "Prepared", settings: "Settings") -> str:
    if settings.target == "local":
        return "local: processes of this machine"
    kind = prepared.spec.placement.kind
    chosen = f" as a {kind}" if kind else ", the kind is chosen there"
    queue = f", queue {settings.queue}" if settings.queue else ", no queue"
    why = f" ({prepared.why})" if prepared.why else ""
    return f"kubernetes: namespace {settings.namespace}{queue}{chosen}{why}"


def _nodes(prepared: "Prepared") -> str:
    spec = prepared.spec
    gpus = spec.resources.gpus
    each = (
        f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"{spec.processes_per_node} processes on CPUs"
    )
    total = f", {spec.nodes * gpus} GPUs in all" if gpus and spec.nodes > 1 else ""
    return f"{spec.nodes} x {each}{total}"


def _training(config: "RunConfig", numbers: "Estimate", settings: "Settings") -> "Facts":
    from goku_platform.cli.output import count

    model, parallel, data = config.model, config.parallel, config.data
    return {
        "model": f"{count(numbers.parameters)} parameters: "
        f"{model.layers} layers of width {model.width}, {model.heads} heads",
        "layout": f"{parallel.data} data x {parallel.sequence} sequence, "
        f"{parallel.engine} stage {parallel.zero_stage}, {parallel.precision}",
        "step": f"at most {count(numbers.tokens_per_step)} tokens: {data.packs_per_step} packs, "
        f"{config.micro_batches} on each data rank",
        "memory": _memory(numbers),
        "time": _time(config, numbers),
        "price": _price(numbers, settings),
        "checkpoint": _checkpoint(config, numbers),
        "stopping": f"a slow save takes {_slow_save(numbers)}; it must fit into "
        f"{config.checkpoint.stop_budget_seconds:g} s, and the pods have "
        f"{config.checkpoint.grace_seconds:g} s",
    }


def _memory(numbers: "Estimate") -> str:
    from goku_platform.cli.output import size

    state = f"{size(numbers.state_bytes_per_process)} of state"
    if numbers.memory_bytes_per_process is None:
        return f"{state} a process; activations {_ON_CPUS}"
    waiting = numbers.host_bytes_per_process
    host = f", and {size(waiting)} of its host's" if waiting else ""
    return (
        f"{size(numbers.memory_bytes_per_process)} at the peak of a GPU's "
        f"{size(numbers.gpu_bytes)}{host}: {state}, then a full pack with "
        f"recompute={numbers.recompute}"
    )


def _time(config: "RunConfig", numbers: "Estimate") -> str:
    from goku_platform.cli.output import duration

    if numbers.step_seconds is None or numbers.hours is None:
        return f"{config.training.steps} steps; {_ON_CPUS}"
    return (
        f"{config.training.steps} steps of {duration(numbers.step_seconds)}: "
        f"{duration(numbers.hours * 3600)}, within a factor of two"
    )


def _price(numbers: "Estimate", settings: "Settings") -> str | None:
    if numbers.gpu_hours is None:
        return None
    if numbers.price is None:
        return f"{numbers.gpu_hours:,.0f} GPU hours; the profile has no price_per_gpu_hour"
    rate = settings.price_per_gpu_hour
    return f"{numbers.price:,.0f}: {numbers.gpu_hours:,.0f} GPU hours at {rate:g}"


def _checkpoint(config: "RunConfig", numbers: "Estimate") -> str:
    from goku_platform.cli.output import duration, share, size

    interval, seconds = config.checkpoint.interval_steps, config.checkpoint.interval_seconds
    text = f"{size(numbers.checkpoint_bytes)} every {interval} steps"
    if numbers.step_seconds is not None:
        text += f" or {duration(numbers.step_seconds * interval)}"
    if seconds is not None:
        text += f", at the latest after {duration(seconds)}"
    if numbers.saving_share is not None:
        beside = " beside training" if config.checkpoint.background else ""
        text += f"; {share(numbers.saving_share)} of the time one is written{beside}"
    return text


def _slow_save(numbers: "Estimate") -> str:
    from goku_platform.cli.output import duration

    return duration(numbers.save_seconds)
