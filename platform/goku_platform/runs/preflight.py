"""Every check before a launch, each with a name, what was seen, and the next step where it failed.

They come from what the run reads, its times and memory, the store, and the target. None changes
anything but the last: trying the store writes a name and deletes it again.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from statistics import fmean
from typing import NamedTuple

from goku.config import ConfigError, RunConfig
from goku.contract.manifest import CorruptCheckpoint
from goku.contract.rundir import RunDir
from goku.contract.store import Store, StoreError
from goku_platform.cluster.client import Check, Client
from goku_platform.errors import PlatformError, PreflightError, TargetError
from goku_platform.jobs.estimate import P99_OVER_MEAN, Estimate
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import lint
from goku_platform.runs import inputs
from goku_platform.settings import Settings

_SAVES = 3  # checkpoints whose saves are looked at: a manifest of a large model has megabytes


class Report(NamedTuple):
    """All checks of a launch, and what to mind even if they passed."""

    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.ok is False)

    def __or__(self, other: "Report") -> "Report":
        return Report(self.checks + other.checks, self.warnings + other.warnings)

    def refuse(self) -> None:
        """Raise PreflightError for the first failed check, naming the others."""
        if not self.failed:
            return
        first, *others = self.failed
        value, _, rule = first.detail.partition(": ")
        if not rule:
            value, rule = first.name, first.detail
        fix = first.fix or "See: goku-platform doctor."
        if others:
            more = ", ".join(f"{check.name} ({check.detail})" for check in others)
            fix += f" Failed too: {more}. All of it: goku-platform doctor."
        raise PreflightError(value, rule, fix)


def check(config: RunConfig) -> tuple[str, ...]:
    """Raise PreflightError or StoreError for an input that is missing; return warnings."""
    for _, look in inputs.looks(config):
        look(config)
    Store(config.store).check_writable()
    return inputs.warnings(config)


def reads(config: RunConfig) -> Report:
    """Whether everything that the run reads is there."""
    checks = tuple(tried(name, look, config) for name, look in inputs.looks(config))
    try:
        return Report(checks, inputs.warnings(config))
    except (StoreError, OSError, PlatformError, ConfigError):
        return Report(checks)  # a failed check says it already


def job(config: RunConfig, spec: JobSpec, numbers: Estimate, settings: Settings) -> Report:
    """Whether the job survives its first preemption: times and memory."""
    findings = [*lint.lint(spec, numbers)]
    if settings.target == "kubernetes":
        findings += lint.lint_cluster(spec)
    fatal = tuple(
        Check("job", False, f"{one.value}: {one.rule}", one.fix) for one in findings if one.fatal
    )
    warnings = tuple(str(one) for one in findings if not one.fatal)
    times = f"grace {spec.grace_seconds:g} s, stop budget {spec.stop_budget_seconds:g} s"
    passed = (Check("job", True, times),)
    return Report(fatal or passed, warnings) | _measured_saves(config, spec)


def target(client: Client, spec: JobSpec) -> tuple[JobSpec, str, Report]:
    """The job placed, why it was placed so, and what the target says of it."""
    why = ""
    try:
        spec, why = client.place(spec)
        return spec, why, Report(tuple(client.preflight(spec)))
    except TargetError as error:
        return spec, why, Report((failed("target", error),))


def store(uri: str) -> Report:
    """Whether the store takes a conditional write and gives it back. Writes and deletes a name."""
    try:
        Store(uri).check_writable()
    except (StoreError, OSError) as error:
        return Report((failed("store", error),))
    return Report((Check("store", True, f"{uri} takes conditional writes and gives them back"),))


def tried(name: str, look: Callable[[RunConfig], str], config: RunConfig) -> Check:
    """A look as a check."""
    try:
        return Check(name, True, look(config))
    except (PlatformError, ConfigError, StoreError, OSError) as error:
        return failed(name, error)


def failed(name: str, error: Exception) -> Check:
    """An error as a check."""
    if isinstance(error, (PlatformError, ConfigError)):
        return Check(name, False, f"{error.value}: {error.rule}", error.fix)
    detail, stop, fix = str(error).rstrip(".").partition(". ")
    return Check(name, False, detail, f"{fix}." if stop else "")


def _measured_saves(config: RunConfig, spec: JobSpec) -> Report:
    """The stop budget against saves that runs of the same model really made, where there are any.

    Those are this run itself, when it goes on, and the one that it starts from.
    """
    try:
        seconds = list(_save_seconds(config, spec))
    except (StoreError, OSError):
        return Report()  # the inputs or the store say so
    if not seconds:
        return Report((Check("saves", None, "none of this model has been measured yet"),))
    mean, budget = fmean(seconds), spec.stop_budget_seconds
    slow = max(P99_OVER_MEAN * mean, *seconds)
    fix = f"Set checkpoint.stop_budget_seconds above {slow:.0f}, and the grace above that."
    seen = f"a save took {mean:.3g} s on average, and the stop budget is {budget:g} s"
    warnings = (f"{seen}: a slow one may not fit. {fix}",) if mean < budget <= slow else ()
    if mean >= budget:
        return Report((Check("saves", False, seen, fix),))
    return Report((Check("saves", True, seen),), warnings)


def _save_seconds(config: RunConfig, spec: JobSpec) -> Iterator[float]:
    """Of the newest checkpoints: from the copy of the state to the commit."""
    runs = [RunDir(spec.run_uri), inputs.start_of(config)]
    for run in filter(None, runs):
        for step in run.steps()[-_SAVES:]:
            with suppress(CorruptCheckpoint, FileNotFoundError):
                if seconds := run.manifest(step).save_seconds:
                    yield seconds
