"""What a run is doing, from what the ledger says and what the target sees: one table."""

from enum import StrEnum
from typing import NamedTuple

from goku.contract.exits import Cause


class RunState(StrEnum):
    """The states that people see."""

    READY = "ready"
    QUEUED = "queued"
    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Wait(StrEnum):
    """What a job that does not run yet waits for."""

    NOTHING = "nothing"
    QUEUE = "queue"  # it has no pods: a queue has not admitted it
    PODS = "pods"  # it has pods, and they wait: for nodes, images, volumes


WORDS: dict[RunState, str] = {
    RunState.READY: "frozen, and nothing of it runs",
    RunState.QUEUED: "its queue has not admitted it yet",
    RunState.PENDING: "admitted, but not all of its pods run yet",
    RunState.STARTING: "its supervisors live and no attempt is open",
    RunState.RUNNING: "an attempt is open",
    RunState.DONE: "it reached its target",
    RunState.STOPPED: "asked to stop, and saved",
    RunState.INTERRUPTED: "it ended early, and goes on from what was kept",
    RunState.FAILED: "it ended, and would only fail again",
}


class Row(NamedTuple):
    """One line of the table: where it applies, and what it means."""

    causes: frozenset[Cause | None]  # of the newest attempt; None: there is no attempt
    alive: frozenset[bool | None]  # as the target sees it; None: it cannot know
    state: RunState
    advice: str  # the next step, a verb where there is one
    waits: frozenset[Wait] = frozenset(Wait)


_ALIVE = frozenset({True})
_OVER = frozenset({False, None})
_ANY = frozenset({True, False, None})
_EVERY_CAUSE: frozenset[Cause | None] = frozenset({None, *Cause})
_BROKEN = (Cause.CRASHED, Cause.OUT_OF_MEMORY, Cause.KILLED, Cause.HUNG, Cause.UNSAVED, Cause.LOST)

_TABLE: tuple[Row, ...] = (
    # Done is final, even while its supervisor still ships the last log.
    Row(frozenset({Cause.DONE}), _ANY, RunState.DONE, "what it made is in the run directory"),
    # Whatever earlier attempts were, this one cannot begin yet. The target says why.
    Row(_EVERY_CAUSE, _ALIVE, RunState.QUEUED, "wait, or stop", frozenset({Wait.QUEUE})),
    Row(_EVERY_CAUSE, _ALIVE, RunState.PENDING, "wait, or see events", frozenset({Wait.PODS})),
    # The ledger's newest attempt runs, and nothing contradicts it.
    Row(frozenset({Cause.RUNNING}), frozenset({True, None}), RunState.RUNNING, "logs --follow"),
    # The record says running, but the supervisor is gone: killed, or the machine was.
    Row(frozenset({Cause.RUNNING}), frozenset({False}), RunState.INTERRUPTED, "resume"),
    # A supervisor lives and has not opened its attempt yet, or has just closed it.
    Row(_EVERY_CAUSE, _ALIVE, RunState.STARTING, "logs --follow"),
    # Frozen, but no supervisor ever opened an attempt.
    Row(frozenset({None}), _OVER, RunState.READY, "resume"),
    # Asked to stop, and saved.
    Row(frozenset({Cause.YIELDED}), _OVER, RunState.STOPPED, "resume"),
    # The same code on the same configuration fails again: the cause comes first.
    Row(frozenset({Cause.USER_ERROR}), _OVER, RunState.FAILED, "mend the cause, then resume"),
    # As many attempts as allowed made nothing durable.
    Row(frozenset({Cause.NO_PROGRESS}), _OVER, RunState.FAILED, "read the logs, then resume"),
    # It gave way to a newer attempt, and that one has left no record after it.
    Row(frozenset({Cause.SUPERSEDED}), _OVER, RunState.FAILED, "end the other start, then resume"),
    # Everything else is the machine's doing: the last checkpoint is where it goes on.
    Row(frozenset(_BROKEN), _OVER, RunState.INTERRUPTED, "resume"),
)

# No attempt was ever opened, and the supervisor ended with an error.
_STILLBORN = Row(frozenset({None}), _OVER, RunState.FAILED, "logs: it could not begin")


def state_of(
    cause: Cause | None,
    *,
    alive: bool | None,
    exit_code: int | None = None,
    wait: Wait = Wait.NOTHING,
) -> Row:
    """The row for the newest attempt's cause, the target's view and the supervisor's exit code.

    An exit code without any attempt means that the supervisor itself could not begin.
    """
    if cause is None and alive is False and exit_code:
        return _STILLBORN
    return next(
        row for row in _TABLE if cause in row.causes and alive in row.alive and wait in row.waits
    )
