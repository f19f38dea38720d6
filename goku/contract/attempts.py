"""The ledger of attempts: one JSON record each, numbered by whoever creates it first.

The ledger, not the cluster, decides how often a run may be tried: attempts in a row that made no
step durable end it (exit 93), however often a controller would restart it.
"""

import json
import time

from pydantic import BaseModel, ConfigDict, Field

from goku.contract.exits import Cause, retried
from goku.contract.rundir import RunDir

_FOLDER = "attempts"


class Attempt(BaseModel):
    """One attempt at a run, from the supervisor's start to its end. Times are unix seconds."""

    model_config = ConfigDict(frozen=True)

    number: int
    started_at: float
    ended_at: float | None = None
    host: str = ""
    nodes: int = 1
    processes_per_node: int = 1
    cause: Cause = Cause.RUNNING
    exit_code: int | None = None
    message: str = ""  # one line for `status`
    first_step: int | None = None  # the step it began at, after the restore
    last_step: int | None = None  # the last step it finished
    durable_step: int | None = None  # the last step that a checkpoint holds
    lost_steps: int = 0  # finished but not durable: the next attempt repeats them
    seconds: dict[str, float] = Field(default_factory=dict)  # by time class; sums to the wall time

    @property
    def fruitful(self) -> bool:
        """Whether it ended well or made at least one step durable."""
        gained = (self.durable_step or 0) > (self.first_step or 0)
        return gained or self.cause in (Cause.DONE, Cause.YIELDED)


class Ledger:
    """All attempts at one run."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    def all(self) -> list[Attempt]:
        """Every attempt, oldest first."""
        names = self._run.store.list(_FOLDER)
        return [self._read(name) for name in names if name.endswith(".json")]

    def last(self) -> Attempt | None:
        return next(reversed(self.all()), None)

    def fruitless(self) -> int:
        """How many attempts at the end of the ledger made nothing durable.

        The count begins anew after an end that only a person starts again from. A checkpoint
        speaks for an attempt whose supervisor vanished before it could.
        """
        latest = self._run.latest()
        saved = latest.attempt if latest else 0
        count = 0
        for attempt in reversed(self.all()):
            final = attempt.exit_code is not None and not retried(attempt.exit_code)
            if attempt.fruitful or final or attempt.number <= saved:
                break
            count += 1
        return count

    def open(self, *, host: str, nodes: int, processes_per_node: int) -> Attempt:
        """Begin the next attempt and raise the fence for it."""
        number = max((attempt.number for attempt in self.all()), default=0) + 1
        while True:
            attempt = Attempt(
                number=number,
                started_at=time.time(),
                host=host,
                nodes=nodes,
                processes_per_node=processes_per_node,
            )
            if self._run.store.create(_name(number), attempt.model_dump_json().encode()):
                break
            number += 1
        self._close_lost(number)
        self._run.raise_fence(number)
        return attempt

    def close(self, attempt: Attempt) -> None:
        """Write an attempt's end."""
        text = json.dumps(attempt.model_dump(mode="json"), indent=2)
        self._run.store.write(_name(attempt.number), text.encode())

    def _close_lost(self, newest: int) -> None:
        for attempt in self.all():
            if attempt.number < newest and attempt.cause is Cause.RUNNING:
                update = {
                    "cause": Cause.LOST,
                    "message": "its supervisor vanished without a record",
                }
                self.close(attempt.model_copy(update=update))

    def _read(self, name: str) -> Attempt:
        return Attempt.model_validate_json(self._run.store.read(f"{_FOLDER}/{name}"))


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:04d}.json"
