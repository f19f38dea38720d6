"""Exit codes of the supervisor, the same on every kind of job (docs/operations.md says what to do).

torchrun exits 1 whatever happened, so the supervisor owns the code. A PyTorchJob with restart
policy ExitCode retries 128 and above and treats the rest as final.
"""

from enum import IntEnum, StrEnum


class Exit(IntEnum):
    """1 to 63 are permanent: the user's errors, and giving way. Never retried."""

    DONE = 0
    USER_ERROR = 1
    USAGE = 2  # the command line itself was wrong
    SUPERSEDED = 3  # a newer attempt of the run took over: again would be to fight it for ever
    NO_PROGRESS = 93  # attempts in a row made nothing durable: never requeue
    HUNG = 134
    OUT_OF_MEMORY = 137  # or killed: retried, with a hint
    PREFLIGHT = 138  # this node is unfit: retried elsewhere
    YIELDED = 143  # asked to stop, state saved: retried


class Cause(StrEnum):
    """Why an attempt ended, as the ledger, `status` and the metrics name it."""

    RUNNING = "running"
    DONE = "done"
    YIELDED = "yielded"  # preempted or stopped, and saved
    USER_ERROR = "user-error"
    CRASHED = "crashed"  # a rank died of something else: retried
    OUT_OF_MEMORY = "out-of-memory"
    KILLED = "killed"  # SIGKILL from outside
    HUNG = "hung"
    UNSAVED = "unsaved"  # asked to stop, but the save outlived its budget
    NO_PROGRESS = "no-progress"
    SUPERSEDED = "superseded"  # a newer attempt of the same run may commit, this one may not
    LOST = "lost"  # a supervisor vanished; recorded by those that are left, or the next attempt


EXIT_OF: dict[Cause, int] = {
    Cause.DONE: Exit.DONE,
    Cause.YIELDED: Exit.YIELDED,
    Cause.USER_ERROR: Exit.USER_ERROR,
    Cause.CRASHED: 139,  # any retried code: 139 is what a segmentation fault would give
    Cause.OUT_OF_MEMORY: Exit.OUT_OF_MEMORY,
    Cause.KILLED: Exit.OUT_OF_MEMORY,
    Cause.HUNG: Exit.HUNG,
    Cause.UNSAVED: Exit.YIELDED,
    Cause.NO_PROGRESS: Exit.NO_PROGRESS,
    Cause.SUPERSEDED: Exit.SUPERSEDED,
    Cause.LOST: Exit.OUT_OF_MEMORY,  # of the supervisors that are left: as if killed, retried
}


def retried(code: int) -> bool:
    """Whether a run that ended with this code may be started again without a person's help."""
    return code >= 128
