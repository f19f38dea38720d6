"""Doctor: the checks of a launch alone. Without a preset, those that need no particular run."""

from dataclasses import replace

from goku.config import RunConfig
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Check, Client
from goku_platform.errors import RunError, TargetError
from goku_platform.jobs.estimate import estimate
from goku_platform.jobs.plan import plan
from goku_platform.runs import preflight
from goku_platform.runs.existing import look
from goku_platform.runs.preflight import Report
from goku_platform.settings import Settings

_PROBE = "goku-doctor"  # a job of this name is never made


def doctor(
    config: RunConfig, settings: Settings, client: Client, *, code_version: str, run: bool
) -> Report:
    """Every check, passed or not. With `run`, also of what this very run reads and of its name.

    Without, `config` only lends the job its shape.
    """
    try:
        spec = plan(config, settings, code_version=code_version)
    except TargetError as error:
        return Report((preflight.failed("plan", error),)) | preflight.store(config.store)
    if not run:
        spec = replace(spec, name=_PROBE, run_uri=f"{config.store}/{_PROBE}")
    spec, why, report = preflight.target(client, spec)
    if why:
        report = Report((Check("kind", True, why),)) | report
    if run:
        job = preflight.job(config, spec, estimate(config, settings), settings)
        name = Report((_name(spec.run_uri, client),))
        report = name | preflight.reads(config) | job | report
    return report | preflight.store(config.store)


def _name(uri: str, client: Client) -> Check:
    """Whether a launch would find the run's name free."""
    try:
        run = RunDir(uri)
        existing = look(run, client)
        if existing.there or existing.alive_here:
            raise RunError(f"run {run.name!r}", f"there is {existing}", existing.way_on)
    except (RunError, TargetError, ValueError, OSError) as error:
        return preflight.failed("name", error)
    return Check("name", True, f"{run.name} is free")
