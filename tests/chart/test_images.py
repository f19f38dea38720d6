"""The Dockerfiles, read as text. That they build and run is tested on the cluster."""

import re
from pathlib import Path

import pytest

from goku.contract import env
from tests.chart.chart import ROOT

IMAGES = ROOT / "platform" / "images"
FILES = sorted(IMAGES.glob("*.Dockerfile"))
TRAINING, CURATION = IMAGES / "training.Dockerfile", IMAGES / "curation.Dockerfile"


def instructions(path: Path) -> list[str]:
    """Lines that do something, continued ones joined."""
    text = re.sub(r"(?m)^#.*\n", "", path.read_text()).replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip()]


def last_stage(path: Path) -> list[str]:
    lines = instructions(path)
    start = max(i for i, line in enumerate(lines) if line.startswith("FROM "))
    return lines[start:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_base_is_an_argument(path: Path) -> None:
    lines = instructions(path)
    assert lines[0].startswith("ARG BASE=")
    named = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert set(named) <= {"${BASE}", "python"}  # the latter is a stage
    assert "." not in lines[0].split("=")[1].split("/")[0]  # no registry's host


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dependencies_are_a_layer_below_the_code(path: Path) -> None:
    stage = last_stage(path)
    install = next(i for i, line in enumerate(stage) if "uv pip install" in line)
    copies = [line for line in stage[:install] if line.startswith("COPY ")]
    assert copies == ["COPY pyproject.toml constraints.txt /opt/requirements/"]
    assert "--compile-bytecode" in stage[install]
    assert any(line.startswith("COPY --from=wheel") for line in stage[install:])
    assert "--no-deps --compile" in " ".join(stage[install:])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_pod_needs_no_root_and_no_writable_root(path: Path) -> None:
    stage = last_stage(path)
    assert "USER 1000:1000" in stage
    assert stage[-1] == 'ENTRYPOINT ["python", "-m", "goku_platform.supervisor"]'
    settings = " ".join(line for line in stage if line.startswith("ENV "))
    assert "PYTHONDONTWRITEBYTECODE=1" in settings
    assert "HOME=/goku" in settings


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_code_version_comes_last(path: Path) -> None:
    stage = last_stage(path)
    version = stage.index('ARG CODE_VERSION=""')
    assert stage[version + 1] == f"ENV {env.CODE_VERSION}=${{CODE_VERSION}}"
    assert not any(line.startswith(("RUN ", "COPY ")) for line in stage[version:])


def test_the_two_differ_in_base_extras_and_packages_only() -> None:
    def common(path: Path) -> list[str]:
        return [
            line
            for line in instructions(path)
            if not line.startswith(("ARG BASE=", "ARG EXTRAS=")) and "apt-get" not in line
        ]

    assert common(TRAINING) == common(CURATION)


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:].split("/")[0] for line in lines if line.startswith("!")}
    copied = {
        source
        for path in FILES
        for line in instructions(path)
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert "*" in lines
    assert allowed == copied
