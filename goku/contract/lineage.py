"""Who dies with whom: no process of a run may outlive the one that started it.

The supervisor starts torchrun, torchrun starts the ranks, a rank starts its workers. Each asks the
kernel (Linux) to be killed with its parent, so that a killed supervisor leaves nothing training.
Elsewhere these calls do nothing, and only the fence keeps an orphan from committing.
"""

import ctypes
import os
import signal
import sys

PARENT = "GOKU_PARENT_PID"  # set by a parent for its children: whom they expect to find
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent() -> None:
    """Be killed when the parent dies; at once if it died before this call.

    Call it first thing, before slow imports. The kernel watches the parent's thread, so the parent
    must have started this process from a thread that lives on.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.pop(PARENT, None)
    if expected is not None and int(expected) != os.getppid():
        os.kill(os.getpid(), signal.SIGKILL)


def expect_this_parent() -> None:
    """Tell processes started from here on whom `die_with_parent` shall find."""
    os.environ[PARENT] = str(os.getpid())


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent dies, as PID 1 is by nature."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def isolate() -> None:
    """Make this worker process the leader of its own session, out of reach of group signals.

    torchrun signals the whole process group of a rank; a worker that is in the middle of a read
    must not see that. It still dies with its parent.
    """
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
