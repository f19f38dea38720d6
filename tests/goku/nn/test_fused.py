"""The fused kernels compute what plain PyTorch does, gradients included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_interpreted_kernels_equal_plain_pytorch() -> None:
    pytest.importorskip("triton", reason="torch's CPU builds come without Triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.goku.nn.interpreted"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.stdout == "equal\n", done.stderr
