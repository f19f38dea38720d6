"""Tests that need a process of their own: Triton decides when it is first imported how it runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SECONDS = 250


def printed(module: str, **environment: str) -> str:
    """What a module of the tests prints; its errors are part of it. Skips where Triton is not."""
    pytest.importorskip("triton", reason="torch's CPU builds come without Triton")
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr
