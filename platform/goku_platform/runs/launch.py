"""Launch: look, freeze, start. Nothing is written until every check has passed.

The run is frozen before the job exists, since a job without its run could only fail. An interrupt
between the two takes the run back; a killed process leaves one that is `ready` and may be resumed.
"""

import contextlib
from dataclasses import dataclass

from goku.config import RunConfig
from goku.contract.attempts import Ledger
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.errors import PlatformError, RunError
from goku_platform.jobs import names
from goku_platform.jobs.estimate import Estimate, estimate
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.runs import existing, preflight
from goku_platform.runs.at_once import beside
from goku_platform.runs.existing import Existing
from goku_platform.runs.preflight import Report
from goku_platform.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job as it would be launched, what is in its way, and what is there already."""

    config: RunConfig
    spec: JobSpec
    estimate: Estimate
    report: Report
    existing: Existing | None  # None: the store could not be read
    why: str = ""  # this kind of job


def draft(config: RunConfig, settings: Settings, *, code_version: str) -> Prepared:
    """The job without asking any target or trying the store: what a dry run shows.

    Raises TargetError for a job that no node could run; what else is missing is in the report.
    """
    spec, numbers = _planned(config, settings, code_version)
    report = preflight.reads(config) | preflight.job(config, spec, numbers, settings)
    try:
        found = existing.look(RunDir(spec.run_uri), None)
    except (OSError, ValueError) as error:  # StoreError is one
        found = None
        report |= Report((preflight.failed("store", error),))
    return Prepared(config=config, spec=spec, estimate=numbers, report=report, existing=found)


def prepare(
    config: RunConfig,
    settings: Settings,
    client: Client,
    *,
    code_version: str,
    force: bool = False,
) -> Prepared:
    """Plan the job and make every check. The store is tried last, and only if all else passed.

    It is read while the target is asked: each takes its time, and most of it is waiting.
    Raises RunError if the run exists, and TargetError, PreflightError, StoreError.
    """
    planned, numbers = _planned(config, settings, code_version)
    asked = beside(lambda: (client.get(planned.run_uri), preflight.target(client, planned)))
    stored = beside(lambda: existing.stored(RunDir(planned.run_uri)))
    reads = beside(lambda: preflight.reads(config))
    seen, (spec, why, report) = asked.result()
    found = stored.result().as_seen(seen)
    _refuse_existing(found, planned, force=force)
    report = reads.result() | preflight.job(config, spec, numbers, settings) | report
    if not report.failed:
        report |= preflight.store(config.store)
    report.refuse()
    return Prepared(
        config=config,
        spec=spec,
        estimate=numbers,
        report=report,
        existing=found,
        why=why,
    )


def launch(prepared: Prepared, client: Client, *, code_version: str, force: bool = False) -> RunDir:
    """Freeze the run and start it. Raises RunError if someone else was first."""
    run = RunDir(prepared.spec.run_uri)
    fresh = not run.exists()
    try:
        if not run.freeze(prepared.config, code_version):
            fresh = False
            _refuse_existing(existing.look(run, client), prepared.spec, force=force)
            Ledger(run).allow()
        client.apply(prepared.spec)
    except BaseException:  # Ctrl-C and an overdue call too: no half launch is left
        if fresh:
            _take_back(run, client)
        raise
    return run


def diff(config: RunConfig, settings: Settings, client: Client, *, code_version: str) -> str:
    """What a launch would change on the target, as a unified diff; empty if nothing.

    Raises TargetError.
    """
    return client.diff(plan(config, settings, code_version=code_version))


def _planned(config: RunConfig, settings: Settings, code_version: str) -> tuple[JobSpec, Estimate]:
    spec = plan(config, settings, code_version=code_version)
    return spec, estimate(config, settings)


def _refuse_existing(found: Existing, spec: JobSpec, *, force: bool) -> None:
    """With `force` a run of that name may be there, if it computes the same: `freeze` compares."""
    preset = spec.labels[names.PRESET]
    existing.refuse_alive(found, verb=f"launch {preset} --name {found.name}", force=force)
    if found.there and not force:
        raise RunError(f"run {found.name!r}", f"it exists in {spec.run_uri}", found.way_on)


def _take_back(run: RunDir, client: Client) -> None:
    """Unfreeze a run that nothing has started; if that cannot be known, leave it: it is `ready`."""
    with contextlib.suppress(PlatformError, OSError, ValueError):
        if not client.get(run.uri).alive and Ledger(run).last() is None:
            run.store.delete("run.json")
