"""What a killed process leaves in a local store."""

import os
import time
from pathlib import Path

from goku.contract.rundir import RunDir


def partial_shard(run: RunDir, folder: str, *, age: float) -> Path:
    """A shard that was begun and written to last `age` seconds ago."""
    path = Path(run.uri) / folder / "shards" / f".goku-partial-{age:g}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    written = time.time() - age
    os.utime(path, (written, written))
    return path
