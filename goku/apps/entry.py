"""The main of every app: reads the environment, runs the work, says how it ended, leaves.

Surprising: it leaves by `os._exit`, so no `atexit` hook or destructor runs. DeepSpeed and gloo
abort now and then while the interpreter shuts down ("terminate called without an active
exception", SIGABRT), which would turn a run that saved everything into a failed one. Whatever must
be on disk has to be there when the work returns.
"""

import contextlib
import faulthandler
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from goku.config import RunConfig
from goku.contract import env
from goku.contract.exits import EXIT_OF, Cause, Exit
from goku.contract.lineage import die_with_parent
from goku.contract.pod import PodDir, Verdict
from goku.contract.rundir import Fenced, RunDir, Unsaved


class Context(NamedTuple):
    """What the supervisor tells a rank."""

    run: RunDir
    config: RunConfig
    pod: PodDir
    rank: int
    attempt: int  # number in the ledger; 0 outside of one
    started_at: float  # unix seconds at which the attempt began
    ranks: int = 1  # of the attempt, on all nodes


def launch(work: Callable[[Context], Cause]) -> NoReturn:
    """Run `work` and end the process with the exit code of the cause it returns or raises.

    DONE and YIELDED end with 0: torchrun treats anything else as a failure of the whole group, and
    the verdict in the pod folder tells the two apart.
    """
    die_with_parent()
    faulthandler.enable()
    missing = [name for name in (env.RUN, env.POD_DIR) if not os.environ.get(name)]
    if missing:
        print(
            f"goku: {' and '.join(missing)} not set. "
            "Start runs with goku-platform launch, not this program by itself.",
            file=sys.stderr,
        )
        _leave(Exit.USAGE)
    pod, rank = PodDir(Path(os.environ[env.POD_DIR])), int(os.environ.get("RANK", "0"))
    verdict = _attempt(work, pod, rank)
    pod.judge(rank, verdict)
    _leave(0 if verdict.cause in (Cause.DONE, Cause.YIELDED) else EXIT_OF[verdict.cause])


def judge(error: BaseException) -> Verdict:
    """What an exception says about the run: given way, the user's error, out of memory, a crash."""
    text = " ".join(str(error).split())
    if isinstance(error, Fenced):
        return Verdict(Cause.SUPERSEDED, text)
    if isinstance(error, Unsaved):
        return Verdict(Cause.UNSAVED, text)
    if _is_users(error):
        return Verdict(Cause.USER_ERROR, text)
    cause = Cause.OUT_OF_MEMORY if _is_memory(error) else Cause.CRASHED
    return Verdict(cause, f"{type(error).__name__}: {text}".removesuffix(": "))


def _attempt(work: Callable[[Context], Cause], pod: PodDir, rank: int) -> Verdict:
    try:
        return Verdict(work(_context(pod, rank)), "")
    except BaseException as error:
        verdict = judge(error)
        if verdict.cause in (Cause.USER_ERROR, Cause.SUPERSEDED, Cause.UNSAVED):
            print(f"goku: error: {verdict.message}", file=sys.stderr)
        else:
            traceback.print_exc()
        return verdict


def _context(pod: PodDir, rank: int) -> Context:
    run = RunDir(os.environ[env.RUN])
    return Context(
        run=run,
        config=run.config(),
        pod=pod,
        rank=rank,
        attempt=int(os.environ.get(env.ATTEMPT, "0")),
        started_at=float(os.environ.get(env.ATTEMPT_STARTED, time.time())),
        ranks=int(os.environ.get("WORLD_SIZE", "1")),
    )


def _is_users(error: BaseException) -> bool:
    """Whether to try again would meet the same error.

    A ValueError of a type that goku defines (ConfigError, StoreError, CorruptCheckpoint, ...) is
    raised on purpose; any other ValueError is a bug. A store that is away (StoreUnavailable is an
    OSError too) may be back by then.
    """
    ours = isinstance(error, ValueError) and type(error).__module__.startswith("goku.")
    return (ours and not isinstance(error, OSError)) or isinstance(error, FileNotFoundError)


def _is_memory(error: BaseException) -> bool:
    """Torch's errors are known by name, so that apps without torch need none."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


def _leave(code: int) -> NoReturn:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it may be gone
            stream.flush()
    os._exit(code)
