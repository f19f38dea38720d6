"""The manifests of a tiny job on one node and of a large one, as whole files.

After a change that is meant: GOKU_GOLDEN=write pytest tests/goku_platform/test_pytorchjob.py
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from goku.config import RunConfig, presets
from goku_platform import settings
from goku_platform.jobs import names
from goku_platform.jobs.plan import plan
from goku_platform.render import pytorchjob

GOLDEN = Path(__file__).parents[1] / "golden"
PROFILE = settings.load(GOLDEN / "profile.yaml", environ={}).settings


def manifest(config: RunConfig) -> dict[str, Any]:
    spec = plan(config, PROFILE, code_version="abc123")
    fixed = {**spec.annotations, names.CONFIG_DIGEST: "digest"}  # changes with every default
    return pytorchjob.render(replace(spec, annotations=fixed))


def tiny() -> RunConfig:
    return presets.build("stage1", store=PROFILE.store, size="tiny")


def large() -> RunConfig:
    over = {"parallel": {"nodes": 16}, "data": {"packs_per_step": 128}}
    return presets.build("stage2", store=PROFILE.store, size="2b", overrides=over)


@pytest.mark.parametrize(
    ("name", "config"),
    [("pytorchjob-tiny.yaml", tiny()), ("pytorchjob-2b-16-nodes.yaml", large())],
)
def test_the_whole_manifest(name: str, config: RunConfig) -> None:
    text = yaml.safe_dump(manifest(config), sort_keys=False)
    if os.environ.get("GOKU_GOLDEN") == "write":
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_one_node_has_no_workers_and_sixteen_have_fifteen() -> None:
    assert list(manifest(tiny())["spec"]["pytorchReplicaSpecs"]) == ["Master"]
    replicas = manifest(large())["spec"]["pytorchReplicaSpecs"]
    assert {role: spec["replicas"] for role, spec in replicas.items()} == {
        "Master": 1,
        "Worker": 15,
    }


def test_pods_could_run_in_a_restricted_namespace() -> None:
    pod = manifest(tiny())["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == "pytorch"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False


def test_no_variable_that_the_operator_injects_is_set_and_no_secret_is_held() -> None:
    template = manifest(large())["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    [container] = template["spec"]["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert not {name for name in names if name.startswith("PET_")}
    assert not names & {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "GOKU_NODE_RANK"}
    assert container["envFrom"] == [{"secretRef": {"name": "store-credentials"}}]


def test_jobs_that_do_not_train_take_one_process() -> None:
    curate = presets.build("curate", store="s3://b/r", overrides={"data": {"source": "s3://b/f"}})
    spec = plan(curate, PROFILE, code_version="abc123")
    assert (spec.nodes, spec.processes_per_node, spec.resources.gpus) == (1, 1, 0)
    sample = presets.build("sample", store="s3://b/r", size="tiny")
    spec = plan(sample, PROFILE, code_version="abc123")
    assert (spec.nodes, spec.processes_per_node, spec.resources.gpus) == (1, 1, 1)
