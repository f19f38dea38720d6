"""Launch: look, freeze, start. Nothing is written until every check has passed."""

from dataclasses import dataclass

from goku.config import RunConfig
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.errors import RunError
from goku_platform.jobs.estimate import Estimate, estimate
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import lint
from goku_platform.runs import preflight
from goku_platform.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job that may be launched."""

    config: RunConfig
    spec: JobSpec
    estimate: Estimate
    warnings: tuple[str, ...]


def prepare(
    config: RunConfig, settings: Settings, client: Client, *, code_version: str
) -> Prepared:
    """Plan the job and make every check.

    Raises RunError if the run exists, and TargetError, LintError, PreflightError, StoreError.
    """
    spec = plan(config, settings, code_version=code_version)
    numbers = estimate(config, settings)
    _refuse_existing(RunDir(spec.run_uri), client)
    client.check(spec)
    warnings = lint.check(spec, numbers) + preflight.check(config)
    return Prepared(config=config, spec=spec, estimate=numbers, warnings=warnings)


def launch(prepared: Prepared, client: Client, *, code_version: str) -> RunDir:
    """Freeze the run and start it. Raises RunError if someone else was first."""
    run = RunDir(prepared.spec.run_uri)
    if not run.freeze(prepared.config, code_version):
        _refuse_existing(run, client)
    client.apply(prepared.spec)
    return run


def _refuse_existing(run: RunDir, client: Client) -> None:
    if not run.exists():
        return
    if client.get(run.uri).alive:
        rule, fix = "it is running", f"Watch it: goku-platform status {run.name}."
    else:
        rule = f"it exists in {run.uri}"
        fix = f"Continue it: goku-platform resume {run.name}. Or launch under another --name."
    raise RunError(f"run {run.name!r}", rule, fix)
