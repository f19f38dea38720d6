"""Resume: start the next attempt at a run that exists. What it computes cannot change any more."""

from dataclasses import dataclass

from goku.config import ConfigError, RunConfig
from goku.config.overrides import merge, parse
from goku.contract.attempts import Ledger
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.errors import RunError
from goku_platform.jobs.estimate import estimate
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.runs import preflight
from goku_platform.runs.existing import Existing, look, refuse_alive
from goku_platform.settings import Settings

_FREE = ("parallel", "checkpoint", "health")  # what no number of the run depends on


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What was started, and from where."""

    spec: JobSpec
    from_step: int | None  # None: from the beginning
    warnings: tuple[str, ...]
    why: str  # this kind of job


def resume(
    run: RunDir,
    settings: Settings,
    client: Client,
    *,
    code_version: str,
    overrides: tuple[str, ...] = (),
    force: bool = False,
) -> Resumed:
    """Start the run again, on another world if `overrides` say so, and on the profile's kind.

    `force` takes over a run that is alive elsewhere. Raises RunError if it is alive here or done,
    ConfigError for an override that changes what it computes, TargetError, PreflightError and
    StoreError.
    """
    existing = look(run, client)
    refuse_alive(existing, verb=f"resume {run.name}", force=force)
    _refuse_done(existing)
    frozen = run.config()
    config = _reshaped(frozen, overrides)
    spec = plan(config, settings, code_version=code_version)
    spec, why, report = preflight.target(client, spec)
    report = preflight.job(config, spec, estimate(config, settings), settings) | report
    if not report.failed:
        report |= preflight.store(run.uri)
    report.refuse()
    if config != frozen:
        run.reshape(config)
    Ledger(run).allow()
    client.apply(spec)
    return Resumed(spec=spec, from_step=existing.durable_step, warnings=report.warnings, why=why)


def _refuse_done(existing: Existing) -> None:
    if existing.done:
        raise RunError(
            f"run {existing.name!r}",
            "it is done",
            f"Launch what comes next: goku-platform launch PRESET --from {existing.name}. Or, for "
            "footage or clips that are new since, launch it again with --force.",
        )


def _reshaped(frozen: RunConfig, overrides: tuple[str, ...]) -> RunConfig:
    """The configuration on another world, saved or watched in another way."""
    tree = parse(overrides)
    for section in tree:
        if section not in _FREE:
            allowed = ", ".join(f"{name}.*" for name in _FREE)
            raise ConfigError(
                f"--set {section}...",
                f"a run that exists keeps what it computes; only {allowed} may change",
                "Launch another run for that.",
            )
    return RunConfig.build(merge(frozen.model_dump(), tree))
