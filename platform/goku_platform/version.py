"""Which code this is: the version of the package, and the commit when it runs from a checkout.

The image sets GOKU_CODE_VERSION to its digest, which outranks both.
"""

import os
import subprocess
from importlib import metadata
from pathlib import Path

from goku.contract import env

_CHECKOUT = Path(__file__).resolve().parents[2]  # in an installed copy: a folder without .git


def package_version() -> str:
    """The version of the installed distribution."""
    return metadata.version("goku-platform")


def code_version() -> str:
    """What a run records: image digest, else commit (`-dirty` if changed), else version."""
    return os.environ.get(env.CODE_VERSION) or _commit(_CHECKOUT) or package_version()


def _commit(checkout: Path) -> str | None:
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or no commit yet
