"""A part of the crash sweep on a local folder; `python -m tests.faults.crash` does all of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]


def crash(*arguments: str) -> Any:
    """The report of a sweep that found nothing torn and nothing lost."""
    command = [sys.executable, "-m", "tests.faults.crash", *arguments]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_at_every_third_call_nothing_is_torn_or_lost(tmp_path: Path) -> None:
    report = crash("sweep", str(tmp_path / "run"), "--every", "3")
    assert report["kills"] > 20
    assert 0 < report["of them after the commit"] < report["kills"]


def test_killed_at_random_nothing_is_torn_or_lost(tmp_path: Path) -> None:
    report = crash("random", str(tmp_path / "run"), "30")
    assert (report["kills"], report["saves that came to their end"] > 0) == (30, True)
