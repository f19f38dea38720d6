"""The wheel in an environment of its own: the command line works there without torch, and it brings
the chart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from goku_platform.version import package_version

_ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path = _ROOT) -> str:
    """Standard output of a command that must succeed, away from this environment's packages."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path there."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.slow
def test_the_wheel_renders_without_torch(tmp_path: Path) -> None:
    uv, venv = Path(sys.executable).with_name("uv"), tmp_path / "venv"
    python, program = venv / "bin" / "python", venv / "bin" / "goku-platform"
    run(uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    run(uv, "venv", "--quiet", "--python", sys.executable, venv)
    run(uv, "pip", "install", "--quiet", "--python", python, "-c", "constraints.txt", wheel)

    assert run(program, "--version", cwd=tmp_path) == f"goku-platform {package_version()}\n"
    manifest = yaml.safe_load(run(program, "render", "stage2", cwd=tmp_path))
    assert manifest["kind"] == "PyTorchJob"
    look = (
        "import importlib.util as u; print(u.find_spec('torch'), bool(u.find_spec('goku.config')))"
    )
    assert run(python, "-c", look, cwd=tmp_path) == "None True\n"

    where = "import goku_platform; print(goku_platform.__path__[0] + '/chart')"
    installed = Path(run(python, "-c", where, cwd=tmp_path).strip())
    assert files(installed) == files(_ROOT / "helm" / "goku-platform")
