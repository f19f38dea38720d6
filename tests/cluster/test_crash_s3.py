"""The crash sweep on real S3 servers: killed before and after every request of a save."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.s3 import KINDS, Kind, serving

_ROOT = Path(__file__).parents[2]
# A kill takes a second or two. `python -m tests.faults.crash` leaves out no call.
_EVERY: dict[Kind, str] = {"minio": "4", "versitygw": "7"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["sweep", "random"])
def test_nothing_is_torn_or_lost(kind: Kind, way: str, tmp_path: Path) -> None:
    options = ["--every", _EVERY[kind]] if way == "sweep" else ["12"]
    with serving(kind, tmp_path) as server:
        uri = f"s3://{server.bucket}/runs/crash"
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.crash", way, uri, *options],
            cwd=_ROOT,
            env={**os.environ, **server.environment()},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] > 10
