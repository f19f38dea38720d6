"""The chart of a rendered run makes what `render` prints, and its values do what they say."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from goku_platform.jobs import names
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import chart
from goku_platform.render.kinds import render
from goku_platform.settings import Kind
from tests.cluster.binaries import binary
from tests.goku_platform import rendering


def helm(*arguments: str | Path) -> str:
    done = subprocess.run(
        [binary("helm"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(spec: JobSpec, folder: Path) -> Path:
    for path, text in chart.files(spec).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def made(folder: Path, *values: str) -> list[dict[str, Any]]:
    settings = [part for value in values for part in ("--set", value)]
    objects = yaml.safe_load_all(helm("template", "run", folder, "--namespace", "other", *settings))
    return [found for found in objects if found]


def by_kind(objects: Any) -> dict[str, dict[str, Any]]:
    """Helm puts a Service before a Job by itself; other kinds it sorts by their names."""
    return {found["kind"]: found for found in objects}


@pytest.mark.parametrize("kind", Kind)
def test_unchanged_values_make_what_render_prints(kind: Kind, tmp_path: Path) -> None:
    for spec in (rendering.one_cpu_node(kind), rendering.two_gpu_nodes(kind)):
        folder = written(spec, tmp_path / spec.placement.namespace)
        helm("lint", "--strict", folder)
        assert by_kind(made(folder)) == by_kind(render(spec))


@pytest.mark.parametrize("kind", Kind)
def test_values_reach_the_job(kind: Kind, tmp_path: Path) -> None:
    folder = written(rendering.two_gpu_nodes(kind), tmp_path)
    values = ("image=goku:2", "store=s3://elsewhere/runs/", "queue=", "priorityClass=low")
    job = made(folder, *values, "namespace=")[-1]
    text = yaml.safe_dump(job)
    assert "goku:2" in text
    assert "s3://elsewhere/runs/stage2" in text or "s3://elsewhere/runs/curate" in text
    assert "s3://bucket" not in text
    assert "registry.example" not in text
    assert job["metadata"]["namespace"] == "other"
    assert names.QUEUE not in job["metadata"]["labels"]
    assert job["metadata"]["labels"][names.PRIORITY] == "low"


def test_text_with_braces_stays_text(tmp_path: Path) -> None:
    profile = rendering.CPU.model_copy(update={"env": {"TEMPLATE": "{{ .Release.Name }}"}})
    spec = rendering.spec(rendering.curation(profile), profile, Kind.JOB)
    assert by_kind(made(written(spec, tmp_path))) == by_kind(render(spec))
