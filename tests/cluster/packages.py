"""Azurite, Azure's own emulator of its object store, which is an npm package.

Installed once and kept by version beside the built programs. What it depends on is as it was on
one day, so that two machines run the same.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.binaries import MissingTool, cache

VERSION = "3.37.0"
DAY = "2026-11-20"  # of its dependencies


def azurite(program: str) -> Path:
    """One of its programs. Raises `MissingTool` when it has not been installed."""
    path = _home() / "node_modules" / ".bin" / program
    if not path.exists():
        raise MissingTool(f"{program} is not in {cache()}: install it with `make cluster-binaries`")
    return path


def ensure() -> None:
    """Install it if it is missing. Raises `MissingTool` without npm, or with npm's last words."""
    if _home().is_dir():
        return
    if shutil.which("npm") is None:
        raise MissingTool("npm installs Azure's emulator: install Node 20 or newer first")
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _home().is_dir():
            with tempfile.TemporaryDirectory(prefix="new-", dir=cache()) as folder:
                _install(Path(folder, "home"))
                Path(folder, "home").rename(_home())


def _home() -> Path:
    return cache() / f"azurite-{VERSION}"


def _install(home: Path) -> None:
    home.mkdir()
    command = [
        *("npm", "install", "--prefix", str(home), "--before", DAY, "--ignore-scripts"),
        *("--no-audit", "--no-fund", f"azurite@{VERSION}"),
    ]
    store = {"npm_config_cache": str(home.parent / "npm")}
    done = subprocess.run(command, env=os.environ | store, capture_output=True, text=True)
    if done.returncode:
        raise MissingTool(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    try:
        ensure()
    except MissingTool as missing:
        sys.exit(str(missing))
    print(_home())
