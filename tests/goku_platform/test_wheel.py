"""The wheel in an environment of its own: the command line works there without torch."""

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
