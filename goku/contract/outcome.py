"""What torchrun knows of ranks that failed: a file in the pod folder, from torchrun to supervisor.

torchrun itself exits 1 whatever happened; a rank that was killed cannot leave a verdict. This is
the one account that tells a SIGKILL from an exception.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

NAME = "outcome.json"


class Failure(NamedTuple):
    """One rank that did not end with 0. `exit_code` is negative for a signal, as in subprocess."""

    rank: int
    exit_code: int
    at: float  # unix seconds at which torchrun noticed, to the second
    message: str


def write(path: Path, failures: Iterable[Failure]) -> None:
    """Record the failures, in the order in which torchrun noticed them; none for a good end."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps([failure._asdict() for failure in failures]))
    partial.replace(path)


def read(path: Path) -> tuple[Failure, ...]:
    """The failures, or none if torchrun left no account or a broken one."""
    try:
        return tuple(Failure(**record) for record in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return ()
