"""Whatever is rendered is known to the real CRDs, field by field (kubeconform, strict schemas)."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from goku_platform.jobs.spec import JobSpec
from goku_platform.render import runtime
from goku_platform.render.kinds import render
from goku_platform.settings import Kind
from tests.cluster import schemas
from tests.cluster.binaries import binary
from tests.goku_platform import rendering

SHAPES: dict[str, Callable[[Kind], JobSpec]] = {
    "cpu": rendering.one_cpu_node,
    "efa": rendering.two_gpu_nodes,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("schemas")
    schemas.write(made)
    return made


def complaints(objects: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """What kubeconform says against them."""
    place = f"{folder}/{{{{ .ResourceKind }}}}.json"
    done = subprocess.run(
        [binary("kubeconform"), "-strict", "-output", "json", "-schema-location", place, "-"],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout, done.stderr
    return [resource["msg"] for resource in json.loads(done.stdout)["resources"]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", Kind)
def test_every_field_is_known(kind: Kind, shape: str, folder: Path) -> None:
    assert complaints(render(SHAPES[shape](kind)), folder) == []


def test_every_field_of_the_runtime_is_known(folder: Path) -> None:
    assert complaints([runtime.render(rendering.EFA)], folder) == []


@pytest.mark.parametrize("kind", Kind)
def test_a_misspelt_field_deep_inside_is_not(kind: Kind, folder: Path) -> None:
    *_, job = render(rendering.two_gpu_nodes(kind))
    text = yaml.safe_dump(job).replace("sizeLimit", "sizelimit")
    [complaint] = complaints([yaml.safe_load(text)], folder)
    assert "sizelimit" in complaint
