"""The gang: the supervisors of one attempt, as each of them sees the others.

A run on one node and one on a thousand go the same road: `meet`, work, `agree`. `Alone` is the gang
of one, without sockets; `leader.Leader` is node 0 of several, `member.Member` any other.
docs/decisions/0007-the-gang.md has the protocol and its reasons.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from goku.contract.attempts import Attempt, Steps
from goku.contract.exits import EXIT_OF, Cause
from goku.contract.pod import Verdict

# After one rank has failed the others cannot go on, but a rank that waits for it in NCCL does not
# know, and torchrun waits for that rank. They get this long to say what they saw: longer than the
# verdict takes any failure for a first one, so that those killed here do not count as such.
SETTLE_SECONDS = 5.0

# A supervisor says something every second; ten seconds without a word is a machine that is gone.
# Less would mistake a stalled host for a dead one and cost an attempt; more only holds GPUs longer.
BEAT_SECONDS, SILENCE_SECONDS = 1.0, 10.0

LOOK_SECONDS = 0.1  # between two looks at whatever is waited for; a stop is spread within it

# From the alarm until a node has said how it ended: twice the settling, the stacks and their way
# to the store, the end of the processes. Who has not spoken by then is counted as lost.
LAST_WORD_SECONDS = 60.0


class Alarm(NamedTuple):
    """What the gang asks of every node."""

    stopping: bool = False  # save and leave
    failing: bool = False  # a node ended badly or is lost: end too
    stacks: bool = False  # keep the stacks of the ranks first; implies failing

    def __or__(self, other: "Alarm") -> "Alarm":
        return Alarm(*(mine or theirs for mine, theirs in zip(self, other, strict=True)))


class Report(BaseModel):
    """How one node ended."""

    model_config = ConfigDict(frozen=True)

    node_rank: int
    host: str
    verdict: Verdict | None  # None: nothing went wrong here, it was ended because another was
    steps: Steps = Steps()

    @property
    def bad(self) -> bool:
        return self.verdict is not None and self.verdict.cause not in (Cause.DONE, Cause.YIELDED)


Close = Callable[[Sequence[Report]], Attempt]


class Gang(Protocol):
    """What a supervisor may ask of the others. Nothing here blocks but `meet` and `agree`."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The pods by node rank; known to node 0 once all have met."""
        ...

    @property
    def alarm(self) -> Alarm: ...

    def meet(self, begin: Callable[[], Attempt]) -> Attempt:
        """Wait for all nodes, then for the attempt that `begin` makes on node 0.

        An attempt that is over already has nothing to start: all leave with its exit code.
        """
        ...

    def raise_alarm(self, alarm: Alarm) -> None:
        """Tell every node, this one too. What was asked stays asked."""
        ...

    def agree(self, report: Report, close: Close) -> Attempt:
        """Say how this node ended, wait for the others, and return the end that all share.

        `close` is called with all reports, the worst news first, on the node that speaks for all.
        """
        ...

    def leave(self) -> None:
        """Let go of the others, whatever they do."""
        ...


class Alone:
    """The gang of one."""

    def __init__(self, host: str) -> None:
        self.hosts = (host,)
        self.alarm = Alarm()

    def meet(self, begin: Callable[[], Attempt]) -> Attempt:
        return begin()

    def raise_alarm(self, alarm: Alarm) -> None:
        self.alarm |= alarm

    def agree(self, report: Report, close: Close) -> Attempt:
        return close([report])

    def leave(self) -> None:
        pass


def unopened(cause: Cause, message: str) -> Attempt:
    """An attempt that ended before it was one: it is in no ledger."""
    now = time.time()
    return Attempt(
        number=0,
        started_at=now,
        ended_at=now,
        cause=cause,
        exit_code=EXIT_OF[cause],
        message=message,
    )


def vanished(node_rank: int, host: str, seen: str) -> Report:
    """The report of a node that gives none; `seen` is all that the others saw of it."""
    why = (
        f"vanished ({seen}): deleted, evicted with no grace, out of memory as a whole, "
        "or its machine is gone"
    )
    return Report(node_rank=node_rank, host=host, verdict=Verdict(Cause.LOST, why))
