"""Compiled blocks serve packs of any make-up, and are not compiled for each of them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_packs_of_several_segments_share_one_graph() -> None:
    pytest.importorskip("triton", reason="torch's CPU builds come without Triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.goku.parallel.any_packs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    cases = ("none bf16", "mlp bf16", "none fp8_mlp", "none fp8")
    assert done.stdout.splitlines() == [f"{case} 1 2" for case in cases], done.stderr
