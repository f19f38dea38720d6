"""Rules that a job must obey to survive its first preemption, checked before it is launched.

    termination grace > stop budget > p99 save + one micro-step

The middle is what the supervisor gives the ranks to save; the right is an estimate and so a
warning. What would only fail on a cluster warns too: a manifest may be edited before it is applied.
"""

from collections.abc import Iterator
from typing import NamedTuple

from goku_platform.errors import LintError
from goku_platform.jobs.estimate import Estimate
from goku_platform.jobs.spec import JobSpec


class Finding(NamedTuple):
    """A broken rule. A fatal one refuses the job."""

    value: str
    rule: str
    fix: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.value}: {self.rule}. {self.fix}"


def check(spec: JobSpec, estimate: Estimate) -> tuple[str, ...]:
    """Warnings, as lines for people. Raises LintError for the first fatal finding."""
    findings = tuple(lint(spec, estimate))
    for finding in findings:
        if finding.fatal:
            raise LintError(*finding[:3])
    return tuple(str(finding) for finding in findings)


def lint(spec: JobSpec, estimate: Estimate) -> Iterator[Finding]:
    """Every rule that the job breaks."""
    yield from _stop_times(spec, estimate)
    yield from _memory(spec)


def lint_cluster(spec: JobSpec) -> Iterator[Finding]:
    """Rules that only a cluster makes: its pods do not see this machine."""
    if "://" not in spec.run_uri or spec.run_uri.startswith("file://"):
        yield Finding(
            f"store of {spec.run_uri}",
            "it is a folder of this machine, which no pod sees",
            "Set store in the profile to an object store, or mount the folder in the pods.",
        )
    if spec.placement.image.endswith(":latest") or ":" not in spec.placement.image.split("/")[-1]:
        yield Finding(
            f"image {spec.placement.image}",
            "it has no fixed tag, so a restarted pod may run other code",
            "Name a version or a digest in the profile.",
        )


def _stop_times(spec: JobSpec, estimate: Estimate) -> Iterator[Finding]:
    if spec.grace_seconds <= spec.stop_budget_seconds:
        yield Finding(
            f"checkpoint.grace_seconds={spec.grace_seconds:g}",
            f"it must exceed the stop budget of {spec.stop_budget_seconds:g} s",
            "The pod is killed when the grace ends: raise the grace.",
            fatal=True,
        )
    needed = (estimate.save_seconds or 0.0) + (estimate.pause_seconds or 0.0)
    if spec.stop_budget_seconds <= needed:
        yield Finding(
            f"checkpoint.stop_budget_seconds={spec.stop_budget_seconds:g}",
            f"one micro-step and a slow save may take {needed:.0f} s",
            f"Set it above that, and checkpoint.grace_seconds above it, "
            f"or correct store_gib_per_second in the profile if {spec.name} writes faster.",
        )


def _memory(spec: JobSpec) -> Iterator[Finding]:
    shared = sum(volume.size_gib for volume in spec.volumes if volume.in_memory)
    if shared >= spec.resources.memory_gib:
        yield Finding(
            f"shm_gib={shared}",
            f"/dev/shm counts towards the pod's {spec.resources.memory_gib} GiB of memory",
            "Lower shm_gib or raise memory_gib_per_node in the profile.",
            fatal=True,
        )
