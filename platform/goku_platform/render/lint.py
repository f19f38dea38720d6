"""Rules that a job must obey to survive its first preemption, checked before it is launched.

    termination grace > stop budget > p99 save + one micro-step

The middle is what the supervisor gives the ranks to save; the right is an estimate and so a
warning. What only a cluster minds is apart (`lint_cluster`) and mostly warns: a manifest may be
edited before it is applied.
"""

from collections.abc import Iterator
from typing import NamedTuple

from goku.config.memory import SHARE
from goku_platform.errors import LintError
from goku_platform.jobs.estimate import Estimate
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import runtime
from goku_platform.render.pod import USER
from goku_platform.settings import Kind, Settings

_GIB = 2**30
_LABEL = 63  # characters of a name in DNS, and of a label's value
_RANDOM = len("-x1y2z")  # what a Job appends to its pods' names; JobSet counts it
_RAY_NAME = 47  # KubeRay derives longer names from a RayJob's


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
    return _refuse_fatal(lint(spec, estimate))


def check_cluster(spec: JobSpec) -> tuple[str, ...]:
    """As `check`, for the rules of a cluster."""
    return _refuse_fatal(lint_cluster(spec))


def lint(spec: JobSpec, estimate: Estimate) -> Iterator[Finding]:
    """Every rule that the job breaks."""
    yield from _stop_times(spec, estimate)
    yield from _memory(spec)
    yield from _gpu_memory(estimate)
    yield from _ports(spec)


def lint_cluster(spec: JobSpec) -> Iterator[Finding]:
    """Rules that only a cluster makes: its pods do not see this machine, its names have limits."""
    yield from _store(spec)
    yield from _image(spec)
    yield from _names(spec)
    yield from _queue(spec)
    yield from _network(spec)
    yield from _node_folders(spec)
    if spec.placement.kind is Kind.TRAINJOB:
        yield from _runtime(spec)
    if spec.on_ray and spec.placement.kind not in (None, Kind.RAYJOB):
        yield Finding(
            f"kind={spec.placement.kind}",
            "curation.executor=ray finds no cluster there, and starts Ray in its one pod",
            "Use kind=rayjob, or curation.executor=local.",
        )


def _refuse_fatal(found: Iterator[Finding]) -> tuple[str, ...]:
    findings = tuple(found)
    for finding in findings:
        if finding.fatal:
            raise LintError(*finding[:3])
    return tuple(str(finding) for finding in findings)


def _store(spec: JobSpec) -> Iterator[Finding]:
    if "://" not in spec.run_uri or spec.run_uri.startswith("file://"):
        yield Finding(
            f"store of {spec.run_uri}",
            "it is a folder of this machine, which no pod sees",
            "Set store in the profile to an object store, or mount the folder in the pods.",
        )


def _image(spec: JobSpec) -> Iterator[Finding]:
    if spec.placement.image.endswith(":latest") or ":" not in spec.placement.image.split("/")[-1]:
        yield Finding(
            f"image {spec.placement.image}",
            "it has no fixed tag, so a restarted pod may run other code",
            "Name a version or a digest in the profile.",
        )


def _names(spec: JobSpec) -> Iterator[Finding]:
    """Of the last pod, whose name is the longest; it is also the pod's name in DNS."""
    kind = spec.placement.kind or Kind.PYTORCHJOB
    longest, limit = RESOURCES[kind].pod(spec.name, spec.nodes - 1), _LABEL
    if kind in (Kind.JOBSET, Kind.TRAINJOB):
        limit -= _RANDOM
    elif kind is Kind.RAYJOB:
        limit = _RAY_NAME
    if len(longest) > limit:
        yield Finding(
            f"name={spec.name}",
            f"as a {kind} it makes the name {longest}, longer than {limit} characters",
            f"Shorten it by {len(longest) - limit}: --name.",
            fatal=True,
        )


def _queue(spec: JobSpec) -> Iterator[Finding]:
    place = spec.placement
    unread = {"priority_class": place.priority_class, "topology": place.topology}
    for key, value in unread.items():
        if value and not place.queue:
            yield Finding(
                f"{key} without queue",
                "only Kueue reads it, and without a queue the job passes Kueue by",
                "Set queue in the profile, or remove it.",
            )


def _network(spec: JobSpec) -> Iterator[Finding]:
    network = spec.placement.network
    if not network.pins_memory:
        return
    if not network.devices:
        yield Finding(
            f"network={network.fabric}",
            "no device of it is requested, so the pods see none",
            "Set network_devices (and network_resource) in the profile.",
        )
    yield Finding(
        f"network={network.fabric}",
        "RDMA pins memory, and the pods have no IPC_LOCK: restricted Pod Security forbids it",
        "Give the nodes' container runtime LimitMEMLOCK=infinity.",
    )


def _node_folders(spec: JobSpec) -> Iterator[Finding]:
    for folder in spec.node_folders:
        yield Finding(
            f"checkpoint.local_dir={folder.path}",
            "it is a hostPath volume, which every Pod Security level but privileged refuses",
            f"Let user {USER} write to it on every node, and use a namespace that allows hostPath.",
        )


def _runtime(spec: JobSpec) -> Iterator[Finding]:
    """What a TrainJob cannot carry must be in the runtime already."""
    place, usual = spec.placement, Settings.model_fields
    carried = {
        "secrets": (place.secrets, ()),
        "image_pull_policy": (place.image_pull_policy, usual["image_pull_policy"].default),
        "metrics_port": (spec.metrics_port, usual["metrics_port"].default),
        "checkpoint.grace_seconds": (spec.grace_seconds, runtime.GRACE_SECONDS),
    }
    for key, (value, default) in carried.items():
        if value != default:
            yield Finding(
                key,
                "a TrainJob cannot set it, its runtime must",
                f"Install the chart with the same value for runtime {place.runtime}.",
            )


def _ports(spec: JobSpec) -> Iterator[Finding]:
    if spec.metrics_port in (spec.gang_port, spec.master_port):
        yield Finding(
            f"metrics_port={spec.metrics_port}",
            "the nodes of a run meet on that port",
            "Choose another in the profile.",
            fatal=True,
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


def _gpu_memory(estimate: Estimate) -> Iterator[Finding]:
    """What the ranks would find out when all nodes are there."""
    if estimate.fits is not False:
        return
    needed, given = (
        (n or 0) / _GIB for n in (estimate.memory_bytes_per_process, estimate.gpu_bytes)
    )
    least = estimate.least_sequence
    enough = f"Set parallel.sequence={least}, which is enough" if least else "Cut weights as well"
    yield Finding(
        f"{needed:.1f} GiB of a GPU's {given:g} at the peak",
        f"a plan may use {SHARE:.0%} of it, and recompute={estimate.recompute} is all it has",
        f"{enough}; or lower data.pack_tokens, or correct gpu_memory_gib in the profile.",
    )
