"""The pod folder: how a supervisor and its ranks talk, on the local disk of one pod.

    stop                the supervisor asks the ranks to save and leave
    progress-00000.json a rank's heartbeat: section, step, budget, and on rank 0 the time classes
    verdict-00000.json  why a rank ended, if it could still say so
    stacks-00000.txt    where a silent rank was, written on SIGUSR2

Files, not signals: a file waits for a rank that is still importing, and no data worker sees it.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from goku.contract.exits import Cause


class Progress(BaseModel):
    """A rank's heartbeat. `beat_at` and `budget_seconds` bound how long its section may last."""

    model_config = ConfigDict(frozen=True)

    rank: int
    pid: int
    section: str  # start, step, save, validate, done
    budget_seconds: float
    beat_at: float = Field(default_factory=time.time)
    first_step: int | None = None
    step: int | None = None  # last finished
    durable_step: int | None = None
    seconds: dict[str, float] = Field(default_factory=dict)  # time classes; rank 0 only
    metrics_port: int | None = None  # where rank 0 serves metrics

    @property
    def overdue_seconds(self) -> float:
        """Seconds past the section's budget; negative while there is time."""
        return time.time() - self.beat_at - self.budget_seconds


class Verdict(NamedTuple):
    """A rank's own account of its end."""

    cause: Cause
    message: str


class PodDir:
    """The files above, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget an earlier attempt's files."""
        for pattern in ("stop", "progress-*.json", "verdict-*.json", "stacks-*.txt"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def request_stop(self) -> None:
        (self.folder / "stop").touch()

    def stop_requested(self) -> bool:
        return (self.folder / "stop").exists()

    def beat(self, progress: Progress) -> None:
        self._write(f"progress-{progress.rank:05d}.json", progress.model_dump_json())

    def progress(self) -> list[Progress]:
        """The last heartbeat of every rank that has one, by rank."""
        paths = sorted(self.folder.glob("progress-*.json"))
        return [Progress.model_validate_json(path.read_text()) for path in paths]

    def judge(self, rank: int, verdict: Verdict) -> None:
        """Record why a rank ends; the first verdict of a rank stays."""
        name = f"verdict-{rank:05d}.json"
        if not (self.folder / name).exists():
            self._write(name, json.dumps(verdict._asdict()))

    def verdicts(self) -> dict[int, Verdict]:
        """What the ranks said of their end, by rank."""
        found = {}
        for path in sorted(self.folder.glob("verdict-*.json")):
            record = json.loads(path.read_text())
            found[int(path.stem[-5:])] = Verdict(Cause(record["cause"]), record["message"])
        return found

    def stacks_path(self, rank: int) -> Path:
        return self.folder / f"stacks-{rank:05d}.txt"

    def _write(self, name: str, text: str) -> None:
        partial = self.folder / f".{name}.{os.getpid()}"
        partial.write_text(text)
        partial.replace(self.folder / name)
