"""Every kind of object, as whole files; and what must be the same on all of them.

After a change that is meant: GOKU_GOLDEN=write pytest tests/goku_platform/test_render.py
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from goku.config import presets
from goku.contract import env
from goku.contract.exits import EXIT_OF, retried
from goku_platform.errors import TargetError
from goku_platform.jobs import names
from goku_platform.jobs.kinds import RESOURCES
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import retries, runtime
from goku_platform.render.kinds import RENDERERS, render
from goku_platform.settings import Fabric, Kind, Settings
from tests.goku_platform import rendering

SHAPES: dict[str, Callable[[Kind], JobSpec]] = {
    "cpu": rendering.one_cpu_node,
    "efa": rendering.two_gpu_nodes,
}


def golden(name: str, objects: tuple[dict[str, Any], ...]) -> None:
    """Compare with the file, or write it where asked to."""
    text = yaml.safe_dump_all(objects, sort_keys=False)
    assert "&id" not in text, "the YAML has anchors: two objects share a part"
    if os.environ.get("GOKU_GOLDEN") == "write":
        (rendering.GOLDEN / name).write_text(text)
    assert text == (rendering.GOLDEN / name).read_text()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", Kind)
def test_the_whole_manifest(kind: Kind, shape: str) -> None:
    golden(f"{kind}-{shape}.yaml", render(SHAPES[shape](kind)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_runtime(shape: str) -> None:
    profile = {"cpu": rendering.CPU, "efa": rendering.EFA}[shape]
    golden(f"runtime-{shape}.yaml", (runtime.render(profile),))


def test_every_kind_has_a_renderer_and_a_resource_and_names_them_alike() -> None:
    assert set(RENDERERS) == set(RESOURCES) == set(Kind)
    for kind in Kind:
        *_, job = render(rendering.two_gpu_nodes(kind))
        assert (job["apiVersion"], job["kind"]) == (
            RESOURCES[kind].api_version,
            RESOURCES[kind].kind,
        )


def test_a_kind_that_nobody_decided_is_a_pytorchjob() -> None:
    spec = rendering.one_cpu_node(Kind.JOBSET)
    [job] = render(replace(spec, placement=replace(spec.placement, kind=None)))
    assert job["kind"] == "PyTorchJob"


def test_curation_has_no_state_to_keep_on_its_node() -> None:
    tiers = {"local_dir": "/mnt/nvme", "local_interval_steps": 5}
    over = {"data": {"source": "s3://bucket/footage"}, "checkpoint": tiers}
    config = presets.build("curate", store=rendering.CPU.store, overrides=over)
    assert "hostPath" not in str(render(rendering.spec(config, rendering.CPU, Kind.JOB)))


@pytest.mark.parametrize("kind", rendering.TRAINING_KINDS)
def test_the_nodes_own_disk_is_at_the_same_path_in_the_pod(kind: Kind) -> None:
    tiers = {"checkpoint": {"local_dir": "/mnt/nvme", "local_interval_steps": 5}}
    config = presets.build("stage1", store=rendering.CPU.store, size="tiny", overrides=tiers)
    *_, job = render(rendering.spec(config, rendering.CPU, kind))
    pod = rendering.template(job, rendering.CPU)["spec"]
    [volume] = [one for one in pod["volumes"] if "hostPath" in one]
    assert volume["hostPath"] == {"path": "/mnt/nvme", "type": "Directory"}
    mount = {"name": volume["name"], "mountPath": "/mnt/nvme"}
    assert mount in pod["containers"][0]["volumeMounts"]


# --- the same on every kind


profiles = st.builds(
    lambda **given: Settings.build({"store": "s3://bucket/runs", "target": "kubernetes", **given}),
    image=st.sampled_from(["goku:1", "registry.example:5000/goku@sha256:ab"]),
    image_pull_policy=st.sampled_from(["Always", "IfNotPresent"]),
    image_pull_secrets=st.lists(st.sampled_from(["one", "two"]), unique=True),
    service_account=st.sampled_from([None, "goku"]),
    queue=st.sampled_from([None, "research"]),
    priority_class=st.sampled_from([None, "high"]),
    topology_preferred=st.sampled_from([None, "rack"]),
    network=st.sampled_from(["tcp", "infiniband", "roce", "efa"]),
    network_interface=st.sampled_from([None, "eth0"]),
    network_devices=st.integers(0, 8),
    excluded_nodes=st.lists(st.sampled_from(["bad-1", "bad-2"]), unique=True),
    node_selector=st.sampled_from([{}, {"zone": "a"}]),
    tolerations=st.sampled_from([[], [{"key": "gpu", "effect": "NoSchedule"}]]),
    env=st.sampled_from([{}, {"NCCL_DEBUG": "WARN", "NCCL_NET": "Socket"}]),
    shm_gib=st.integers(1, 64),
)


@given(profile=profiles, nodes=st.sampled_from([1, 2, 128]))
def test_every_kind_makes_the_same_pod(profile: Settings, nodes: int) -> None:
    over = {"parallel": {"nodes": nodes}, "data": {"packs_per_step": 8 * nodes}}
    config = presets.build("stage2", store=profile.store, size="2b", overrides=over)
    jobs = {
        kind: render(rendering.spec(config, profile, kind))[-1] for kind in rendering.TRAINING_KINDS
    }
    pods = [alike(rendering.template(job, profile), nodes) for job in jobs.values()]
    assert all(pod == pods[0] for pod in pods)
    assert len({repr(job["metadata"]) for job in jobs.values()}) == 1
    assert counts(jobs) == dict.fromkeys(rendering.TRAINING_KINDS, nodes)


def alike(template: dict[str, Any], nodes: int) -> dict[str, Any]:
    """A pod template without what the kinds do differ in: names, and where a rank is found."""
    pod = {**template["spec"]}
    pod.pop("restartPolicy", None)  # the training-operator sets it
    pod.pop("subdomain", None)  # controllers other than Job's set it
    [container] = pod["containers"]
    container = {**container, "name": "any"}
    variables = {item["name"]: item for item in container["env"]}
    assert variables.pop(env.NODE_RANK)["valueFrom"]["fieldRef"]
    assert (env.MASTER_ADDR in variables) == (nodes > 1)
    variables.pop(env.MASTER_ADDR, None)
    # a runtime names one port only; the numbers are in the variables
    container["ports"] = [port for port in container["ports"] if port["name"] == "metrics"]
    container["env"] = variables
    return {"metadata": template["metadata"], "spec": {**pod, "containers": [container]}}


def counts(jobs: dict[Kind, dict[str, Any]]) -> dict[Kind, int]:
    spec = {kind: job["spec"] for kind, job in jobs.items()}
    gang = spec[Kind.JOBSET]["replicatedJobs"][0]["template"]["spec"]
    assert gang["parallelism"] == gang["completions"]
    return {
        Kind.PYTORCHJOB: spec[Kind.PYTORCHJOB]["pytorchReplicaSpecs"]["Worker"]["replicas"],
        Kind.TRAINJOB: spec[Kind.TRAINJOB]["trainer"]["numNodes"],
        Kind.JOBSET: gang["completions"],
        Kind.JOB: spec[Kind.JOB]["completions"],
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", Kind)
def test_every_pod_could_run_in_a_restricted_namespace(kind: Kind, shape: str) -> None:
    *_, job = render(SHAPES[shape](kind))
    profile = rendering.CPU if shape == "cpu" else rendering.EFA
    pods = [rendering.template(job, profile)["spec"]]
    if kind is Kind.RAYJOB:
        cluster = job["spec"]["rayClusterSpec"]
        pods.append(cluster["workerGroupSpecs"][0]["template"]["spec"])
        pods.append(job["spec"]["submitterPodTemplate"]["spec"])
    for pod in pods:
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])


@pytest.mark.parametrize("kind", Kind)
def test_nothing_that_an_operator_injects_is_set_and_no_secret_is_held(kind: Kind) -> None:
    *_, job = render(rendering.two_gpu_nodes(kind))
    [container] = rendering.template(job, rendering.EFA)["spec"]["containers"]
    given = {variable["name"] for variable in container["env"]}
    assert not {name for name in given if name.startswith("PET_")}
    assert not given & {"RANK", "WORLD_SIZE", "RAY_ADDRESS"}
    [source] = container["envFrom"]
    assert source["secretRef"]["name"] == "store-credentials"
    assert not any("Probe" in key for key in container)


def test_the_profiles_variables_win_over_the_fabrics() -> None:
    *_, job = render(rendering.two_gpu_nodes(Kind.JOBSET))
    [container] = rendering.template(job, rendering.EFA)["spec"]["containers"]
    values = {item["name"]: item.get("value") for item in container["env"]}
    assert values["FI_PROVIDER"] == "efa"
    assert values["FI_EFA_USE_DEVICE_RDMA"] == "0"


# --- of one kind


def test_a_pytorchjob_has_workers_only() -> None:
    [job] = render(rendering.two_gpu_nodes(Kind.PYTORCHJOB))
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert list(replicas) == ["Worker"]
    assert replicas["Worker"]["restartPolicy"] == "ExitCode"
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (Kind.PYTORCHJOB, "stage2-worker-0"),
        (Kind.TRAINJOB, "stage2-node-0-0.stage2"),
        (Kind.JOBSET, "stage2-node-0-0.stage2"),
        (Kind.JOB, "stage2-0.stage2"),
    ],
)
def test_node_0_has_a_fixed_name(kind: Kind, address: str) -> None:
    *_, job = render(rendering.two_gpu_nodes(kind))
    [container] = rendering.template(job, rendering.EFA)["spec"]["containers"]
    values = {item["name"]: item.get("value") for item in container["env"]}
    assert values[env.MASTER_ADDR] == address
    assert (values[env.MASTER_PORT], values[env.GANG_PORT]) == ("29500", "29400")


def test_a_job_of_several_nodes_brings_the_service_that_names_its_pods() -> None:
    service, job = render(rendering.two_gpu_nodes(Kind.JOB))
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert len(render(rendering.one_cpu_node(Kind.JOB))) == 1


def test_the_controllers_rules_obey_the_contracts_exit_codes() -> None:
    ours = set(EXIT_OF.values())
    assert {code for code in ours if retried(code)} <= set(retries.RETRIED)
    assert not {code for code in ours if not retried(code)} & set(retries.RETRIED)
    assert all(retried(code) for code in retries.RETRIED)


def test_only_curation_with_ray_is_a_rayjob() -> None:
    train = rendering.one_cpu_node(Kind.JOBSET)
    with pytest.raises(TargetError, match=r"only curation with curation.executor=ray runs on Ray"):
        RENDERERS[Kind.RAYJOB](train)
    [job] = render(rendering.two_gpu_nodes(Kind.RAYJOB))
    assert job["spec"]["entrypoint"] == "python -m goku_platform.supervisor"
    [head] = rendering.template(job, rendering.EFA)["spec"]["containers"]
    assert "command" not in head
    assert head["image"] == rendering.EFA.ray_image


def test_a_queue_is_asked_on_the_job_and_a_rack_on_its_pods() -> None:
    [job] = render(rendering.two_gpu_nodes(Kind.JOBSET))
    assert job["metadata"]["labels"][names.QUEUE] == "research"
    assert job["metadata"]["labels"][names.PRIORITY] == "production"
    pod = rendering.template(job, rendering.EFA)["metadata"]
    assert names.QUEUE not in pod["labels"]
    assert pod["annotations"][names.TOPOLOGY_REQUIRED] == "cloud.provider.com/rack"


@pytest.mark.parametrize(
    ("fabric", "devices"),
    [
        ("tcp", {}),
        ("infiniband", {"rdma/hca": "8"}),
        ("roce", {"rdma/hca": "8"}),
        ("efa", {"vpc.amazonaws.com/efa": "8", "hugepages-2Mi": "5120Mi"}),
    ],
)
def test_each_fabric_asks_for_its_devices_and_says_why(
    fabric: Fabric, devices: dict[str, str]
) -> None:
    profile = Settings.build({"store": "s3://b/r", "network": fabric, "network_devices": 8})
    over = {"parallel": {"nodes": 2}, "data": {"packs_per_step": 16}}
    config = presets.build("stage2", store=profile.store, size="2b", overrides=over)
    network = plan(config, profile, code_version="").placement.network
    assert {device.resource: device.quantity for device in network.devices} == devices
    assert all(variable.reason for variable in network.variables)
    assert all(device.reason for device in network.devices)
    assert network.pins_memory == (fabric != "tcp")
    one = presets.build("stage2", store=profile.store, size="2b")
    alone = plan(one, profile, code_version="").placement.network
    assert not alone.variables
    assert not alone.devices
