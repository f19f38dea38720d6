"""Resume: start the next attempt at a run that exists. What it computes cannot change any more."""

from goku.config import ConfigError, RunConfig
from goku.config.overrides import merge, parse
from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.errors import RunError
from goku_platform.jobs.estimate import estimate
from goku_platform.jobs.plan import plan
from goku_platform.render import lint
from goku_platform.settings import Settings


def resume(
    run: RunDir,
    settings: Settings,
    client: Client,
    *,
    code_version: str,
    overrides: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Start the run again, on another world if `overrides` say so; return warnings.

    Raises RunError if it is alive or done, ConfigError for an override outside `parallel`, and
    TargetError, LintError.
    """
    _refuse(run, client)
    frozen = run.config()
    config = _reshaped(frozen, overrides)
    spec = plan(config, settings, code_version=code_version)
    client.check(spec)
    warnings = lint.check(spec, estimate(config, settings))
    if config != frozen:
        run.reshape(config)
    client.apply(spec)
    return warnings


def _refuse(run: RunDir, client: Client) -> None:
    if client.get(run.uri).alive:
        raise RunError(
            f"run {run.name!r}", "it is running", f"Watch it: goku-platform status {run.name}."
        )
    last = Ledger(run).last()
    if last and last.cause is Cause.DONE:
        raise RunError(
            f"run {run.name!r}",
            "it is done",
            f"Launch what comes next: goku-platform launch PRESET --from {run.name}.",
        )


def _reshaped(frozen: RunConfig, overrides: tuple[str, ...]) -> RunConfig:
    """The configuration on another world: only `parallel.*` may differ."""
    tree = parse(overrides)
    for section in tree:
        if section != "parallel":
            raise ConfigError(
                f"--set {section}...",
                "a run that exists keeps what it computes; only parallel.* may change",
                "Launch another run for that.",
            )
    return RunConfig.build(merge(frozen.model_dump(), tree))
