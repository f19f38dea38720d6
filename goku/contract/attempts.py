"""The ledger of attempts: one JSON record each, numbered by whoever creates it first.

    attempts/0001.json      the record: written at the start, replaced at the end
    attempts/0001.pulse     how far it is, every few seconds: all that a vanished attempt leaves
    attempts/0001.resume    a person started the run again after this attempt

The ledger, not the cluster, decides how often a run may be tried: attempts in a row that made no
step durable end it (exit 93), however often a controller would restart it, and an end that only a
person starts again from stays the end until one does.
"""

import json
import time
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from goku.config.errors import ConfigError
from goku.contract.account import account
from goku.contract.exits import EXIT_OF, Cause, retried
from goku.contract.pod import Progress, Verdict
from goku.contract.rundir import RunDir

_FOLDER = "attempts"


class Steps(BaseModel):
    """How far an attempt got. None: not known, or not at all."""

    model_config = ConfigDict(frozen=True)

    first: int | None = None
    last: int | None = None
    durable: int | None = None

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """What one rank has told."""
        return cls(first=progress.first_step, last=progress.step, durable=progress.durable_step)

    def __or__(self, other: "Steps") -> "Steps":
        """What two witnesses know together: the higher of each."""
        return Steps(
            first=_higher(self.first, other.first),
            last=_higher(self.last, other.last),
            durable=_higher(self.durable, other.durable),
        )

    @property
    def lost(self) -> int:
        """Finished but not durable. The step it began at is durable, whoever saved it."""
        return max(0, (self.last or 0) - max(self.durable or 0, self.first or 0))


class Attempt(BaseModel):
    """One attempt at a run, from the supervisors' start to its end. Times are unix seconds."""

    model_config = ConfigDict(frozen=True)

    number: int  # from 1; 0: it ended before it was opened, and is in no ledger
    started_at: float
    ended_at: float | None = None
    host: str = ""  # of node 0
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
    def over(self) -> bool:
        return self.cause is not Cause.RUNNING

    @property
    def fruitful(self) -> bool:
        """Whether it ended well or made at least one step durable."""
        gained = (self.durable_step or 0) > (self.first_step or 0)
        return gained or self.cause in (Cause.DONE, Cause.YIELDED)

    @property
    def final(self) -> bool:
        """Whether only a person may start the run again after it."""
        return self.exit_code is not None and not retried(self.exit_code)

    def ended(
        self, verdict: Verdict, *, at: float, steps: Steps, progress: Progress | None
    ) -> Self:
        """The record of its end. `progress` is rank 0's last; the seconds sum to the wall time."""
        return self.model_copy(
            update={
                "ended_at": at,
                "cause": verdict.cause,
                "exit_code": EXIT_OF[verdict.cause],
                "message": verdict.message,
                "first_step": steps.first,
                "last_step": steps.last,
                "durable_step": steps.durable,
                "lost_steps": steps.lost,
                "seconds": account(progress, wall=at - self.started_at, cause=verdict.cause),
            }
        )


class Pulse(BaseModel):
    """What a running attempt last said of itself, where there is no pod folder to look into."""

    model_config = ConfigDict(frozen=True)

    at: float  # unix seconds
    hosts: tuple[str, ...]  # by node rank
    progress: Progress | None = None  # of rank 0


class Ledger:
    """All attempts at one run."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    def all(self) -> list[Attempt]:
        """Every attempt, oldest first."""
        return [self.get(number) for number in self._numbers()]

    def last(self) -> Attempt | None:
        """The newest attempt. Reads one record, however many there are."""
        numbers = self._numbers()
        return self.get(numbers[-1]) if numbers else None

    def get(self, number: int) -> Attempt:
        """Raises FileNotFoundError if there is no such attempt, ConfigError if it is damaged."""
        try:
            return Attempt.model_validate_json(self._run.store.read(_name(number)))
        except ValidationError:
            raise ConfigError(
                f"{self._run.uri}/{_name(number)}",
                "its bytes have changed",
                "Put it back from a copy, or delete it while nothing of the run lives: the run "
                "goes on and knows nothing of that attempt.",
            ) from None

    def fruitless(self) -> int:
        """How many attempts at the end of the ledger made nothing durable.

        The count begins anew where a person started the run again. A checkpoint speaks for an
        attempt whose supervisor vanished before it could.
        """
        latest = self._run.newest()
        saved = latest.attempt if latest else 0
        count = 0
        for attempt in map(self.get, reversed(self._numbers())):
            anew = attempt.final or self._allowed(attempt)
            if attempt.fruitful or anew or attempt.number <= saved:
                break
            count += 1
        return count

    def final(self) -> Attempt | None:
        """The newest attempt if only a person may start the run again after it, and none has."""
        last = self.last()
        return last if last and last.final and not self._allowed(last) else None

    def allow(self) -> None:
        """A person starts the run again: whatever its end was, the next attempt may begin.

        Call it before the job is started. It also renews the restart budget.
        """
        if last := self.last():
            record = json.dumps({"at": time.time()})
            self._run.store.write(_name(last.number, "resume"), record.encode())

    def open(self, *, host: str, nodes: int, processes_per_node: int) -> Attempt:
        """Begin the next attempt and raise the fence for it."""
        number = max(self._numbers(), default=0) + 1
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

    def beat(self, number: int, pulse: Pulse) -> None:
        self._run.store.write(_name(number, "pulse"), pulse.model_dump_json().encode())

    def pulse(self, number: int) -> Pulse | None:
        """An attempt's last sign of life; None if there is none that can be read."""
        try:
            return Pulse.model_validate_json(self._run.store.read(_name(number, "pulse")))
        except (FileNotFoundError, ValidationError):
            return None

    def committed(self, number: int) -> Steps:
        """What the newest checkpoint tells of an attempt, which may have ended before it could."""
        latest = self._run.newest()
        if latest is None or latest.attempt != number:
            return Steps()
        return Steps(last=latest.step, durable=latest.step)

    def _close_lost(self, newest: int) -> None:
        for attempt in self.all():
            if attempt.number < newest and not attempt.over:
                self.close(self._lost(attempt))

    def _lost(self, attempt: Attempt) -> Attempt:
        """What is known of an attempt whose supervisors have all vanished."""
        verdict = Verdict(Cause.LOST, "its supervisor vanished without a record")
        pulse = self.pulse(attempt.number) or Pulse(at=attempt.started_at, hosts=())
        progress = pulse.progress
        steps = self.committed(attempt.number) | (Steps.of(progress) if progress else Steps())
        at = max(pulse.at, attempt.started_at)
        ended = attempt.ended(verdict, at=at, steps=steps, progress=progress)
        return ended.model_copy(update={"exit_code": None})  # nobody saw one

    def _allowed(self, attempt: Attempt) -> bool:
        return self._run.store.exists(_name(attempt.number, "resume"))

    def _numbers(self) -> list[int]:
        """Ascending, also where a number has outgrown its four digits."""
        stems = (name.removesuffix(".json") for name in self._run.store.list(_FOLDER))
        return sorted(int(stem) for stem in stems if stem.isdigit())


def _name(number: int, suffix: str = "json") -> str:
    return f"{_FOLDER}/{number:04d}.{suffix}"


def _higher(one: int | None, other: int | None) -> int | None:
    return max((step for step in (one, other) if step is not None), default=None)
