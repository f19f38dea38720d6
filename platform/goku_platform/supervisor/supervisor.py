"""One node's part in one attempt, from the meeting of the gang to the exit code.

Surprising: a SIGTERM is kept, not passed on. torchrun would give its ranks 30 s at most and then
kill them; instead the pod folder asks the ranks, which agree, save and leave by themselves. And no
node ends alone: all leave with the exit code of the end that they share.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from goku.config import ConfigError
from goku.contract.attempts import Attempt
from goku.contract.exits import EXIT_OF, Cause, Exit
from goku.contract.manifest import CorruptCheckpoint
from goku.contract.rundir import RunDir
from goku.contract.store import StoreError, StoreUnavailable
from goku_platform.supervisor import logs, record
from goku_platform.supervisor.books import Books
from goku_platform.supervisor.gang import SETTLE_SECONDS, SILENCE_SECONDS, Alone, Gang
from goku_platform.supervisor.logs import Log
from goku_platform.supervisor.node import Node
from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.stop import StopRequest

_TERMINATION_LOG = Path("/dev/termination-log")  # what `kubectl describe` shows of a dead pod


def supervise(stop: StopRequest) -> int:
    """Supervise the attempt that the environment describes; returns the pod's exit code."""
    try:
        place = Placement.read(os.environ)
    except ConfigError as error:
        return _refuse(error, Exit.USAGE)
    try:
        return Supervisor(place, stop=stop).run()
    except StoreUnavailable as error:
        return _refuse(error, EXIT_OF[Cause.CRASHED])
    except (ConfigError, StoreError, CorruptCheckpoint, FileNotFoundError) as error:
        return _refuse(error, Exit.USER_ERROR)
    except Exception:  # a bug, or the machine: another attempt may fare better
        traceback.print_exc()
        return EXIT_OF[Cause.CRASHED]


class Supervisor:
    """Meets the others, starts and attends the ranks of its node, agrees on how it ended."""

    def __init__(
        self,
        place: Placement,
        *,
        stop: StopRequest,
        program: Sequence[str] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`program` are arguments to Python in place of the job's app.

        Raises ConfigError, StoreError or FileNotFoundError if there is no such run.
        """
        self._place, self._stop, self._program = place, stop, program
        self._settle_seconds, self._silence_seconds = settle_seconds, silence_seconds
        self._run = RunDir(place.run_uri)
        self._config = self._run.config()
        self._books = Books(self._run, self._config, place)

    def run(self) -> int:
        """Make one attempt; its exit code."""
        if final := self._books.final():  # whatever restarted this pod does not know it
            return _leave(final)
        gang = self._gang()
        try:
            return self._attempt(gang, self._node(gang))
        finally:
            gang.leave()

    def _attempt(self, gang: Gang, node: Node) -> int:
        attempt = gang.meet(lambda: self._books.begin(node.processes))
        if attempt.over:
            return _leave(attempt)
        folder = logs.folder(self._run, attempt.number)
        log = Log(folder.child(f"node-{self._place.node_rank:04d}"))
        watch = node.watch()
        report = node.attend(attempt, watch, log)
        ended = gang.agree(
            report, lambda reports: self._books.close(attempt, reports, watch, warn=log.warn)
        )
        log.say(record.summary(ended))
        log.close()
        _tell_kubelet(record.summary(ended))
        return EXIT_OF[ended.cause]

    def _node(self, gang: Gang) -> Node:
        return Node(
            self._run,
            self._config,
            self._place,
            stop=self._stop,
            gang=gang,
            settle_seconds=self._settle_seconds,
            program=self._program,
        )

    def _gang(self) -> Gang:
        if self._place.nodes == 1:
            return Alone(self._place.host)
        from goku_platform.supervisor.leader import Leader  # most pods need one of the two, or none
        from goku_platform.supervisor.member import Member

        budget = self._config.health.start_budget_seconds
        if self._place.node_rank == 0:
            return Leader(
                self._place,
                stop=self._stop,
                say=_say,
                budget_seconds=budget,
                silence_seconds=self._silence_seconds,
            )
        return Member(
            self._place,
            stop=self._stop,
            say=_say,
            final=self._books.final,
            budget_seconds=budget,
            silence_seconds=self._silence_seconds,
        )


def _leave(attempt: Attempt) -> int:
    """An attempt with nothing to start: said in one line, its exit code passed on."""
    code = EXIT_OF[attempt.cause]
    if attempt.cause is Cause.DONE:
        _say("the run is done")
        return code
    return _refuse(attempt.message, code)


def _say(text: str) -> None:
    print(f"goku: {text}", flush=True)


def _refuse(why: object, code: int) -> int:
    print(f"goku: error: {why}", file=sys.stderr)
    _tell_kubelet(str(why))
    return int(code)


def _tell_kubelet(message: str) -> None:
    if _TERMINATION_LOG.exists():
        with suppress(OSError):
            _TERMINATION_LOG.write_text(message)
