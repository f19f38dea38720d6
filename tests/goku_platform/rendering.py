"""Planned jobs for the tests of render, and the pods found in whatever was rendered."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from goku.config import RunConfig, presets
from goku_platform import settings
from goku_platform.jobs import names
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import runtime
from goku_platform.settings import Kind, Settings

GOLDEN = Path(__file__).parents[1] / "golden"
CPU = settings.load(GOLDEN / "profile-cpu.yaml", environ={}).settings
EFA = settings.load(GOLDEN / "profile-efa.yaml", environ={}).settings
TRAINING_KINDS: tuple[Kind, ...] = tuple(kind for kind in Kind if kind is not Kind.RAYJOB)


def spec(config: RunConfig, profile: Settings, kind: Kind) -> JobSpec:
    """A plan without what changes by itself: the code and the configuration's digest."""
    planned = plan(config, profile, code_version="abc123")
    return replace(
        planned,
        annotations={**planned.annotations, names.CONFIG_DIGEST: "digest"},
        placement=replace(planned.placement, kind=kind),
    )


def one_cpu_node(kind: Kind) -> JobSpec:
    """Tiny, on a cluster without anything."""
    if kind is Kind.RAYJOB:
        return spec(curation(CPU), CPU, kind)
    return spec(presets.build("stage1", store=CPU.store, size="tiny"), CPU, kind)


def two_gpu_nodes(kind: Kind) -> JobSpec:
    """With a queue, a rack, a fabric and nodes to avoid."""
    if kind is Kind.RAYJOB:
        return spec(curation(EFA), EFA, kind)
    over = {"parallel": {"nodes": 2}, "data": {"packs_per_step": 16}}
    config = presets.build("stage2", store=EFA.store, size="2b", overrides=over)
    return spec(config, EFA, kind)


def curation(profile: Settings) -> RunConfig:
    over = {"data": {"source": "s3://bucket/footage"}, "curation": {"executor": "ray"}}
    return presets.build("curate", store=profile.store, overrides=over)


def template(job: dict[str, Any], profile: Settings) -> dict[str, Any]:
    """The pod template of a job; of a TrainJob, what the trainer makes of it and its runtime."""
    body = job["spec"]
    if job["kind"] == "PyTorchJob":
        return dict(body["pytorchReplicaSpecs"]["Worker"]["template"])
    if job["kind"] == "JobSet":
        return dict(body["replicatedJobs"][0]["template"]["spec"]["template"])
    if job["kind"] == "RayJob":
        return dict(body["rayClusterSpec"]["headGroupSpec"]["template"])
    return dict(body["template"]) if job["kind"] == "Job" else patched(body, profile)


def patched(trainjob: dict[str, Any], profile: Settings) -> dict[str, Any]:
    """Strategic merge of the runtime, the job's patch and its trainer, as far as they use it."""
    under = copy.deepcopy(runtime.render(profile)["spec"]["template"]["spec"])
    base = under["replicatedJobs"][0]["template"]["spec"]["template"]
    [patch] = trainjob["runtimePatches"]
    over = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    over = over["template"]["spec"]["template"]
    [container], [mounts] = base["spec"]["containers"], over["spec"]["containers"]
    trainer = trainjob["trainer"]
    container = {
        **container,
        **mounts,
        "image": trainer["image"],
        "command": trainer["command"],
        "env": trainer["env"],
        "resources": trainer["resourcesPerNode"],
    }
    pod = {**base["spec"], **over["spec"], "containers": [container]}
    return {"metadata": over["metadata"], "spec": pod}
