"""One attempt on one node, from the ledger's line to the exit code. Start at `Supervisor.run`.

Surprising: a SIGTERM is kept, not passed on. torchrun would give its ranks 30 s at most and then
kill them; instead the pod folder asks the ranks, which agree, save and leave by themselves.
"""

import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from goku.config import ConfigError
from goku.config.run import Job
from goku.contract import outcome
from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import EXIT_OF, Cause, Exit
from goku.contract.pod import PodDir, Verdict
from goku.contract.rundir import LOGS, RunDir
from goku.contract.store import Store, StoreError
from goku_platform.supervisor import command, record
from goku_platform.supervisor.attend import SETTLE_SECONDS, Attendant, Ending
from goku_platform.supervisor.logs import Log
from goku_platform.supervisor.memory import oom_kills
from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.program import Program
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.verdict import Evidence, decide
from goku_platform.supervisor.watch import Watch

_JOIN_SECONDS = 1.0  # between two looks at the ledger for node 0's attempt
_CLOSE_TRIES, _CLOSE_SECONDS = 3, 1.0
_TERMINATION_LOG = Path("/dev/termination-log")  # what `kubectl describe` shows of a dead pod


def supervise(stop: StopRequest) -> int:
    """Supervise the attempt that the environment describes; returns the pod's exit code."""
    try:
        place = Placement.read(os.environ)
    except ConfigError as error:
        return _refuse(error, Exit.USAGE)
    try:
        return Supervisor(place, stop=stop).run()
    except (ConfigError, StoreError, FileNotFoundError) as error:
        return _refuse(error, Exit.USER_ERROR)
    except Exception:  # a store out of reach, or a bug: another attempt may fare better
        traceback.print_exc()
        return EXIT_OF[Cause.CRASHED]


class Supervisor:
    """Starts the ranks of one node, attends them, and says how it ended."""

    def __init__(
        self,
        place: Placement,
        *,
        stop: StopRequest,
        program: Sequence[str] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """`program` are arguments to Python in place of the job's app.

        Raises ConfigError, StoreError or FileNotFoundError if there is no such run.
        """
        self._place, self._stop, self._settle_seconds = place, stop, settle_seconds
        self._run = RunDir(place.run_uri)
        self._config = self._run.config()
        self._ledger = Ledger(self._run)
        self._pod = PodDir(place.pod_folder)
        self._grouped = self._config.job is Job.TRAIN  # ranks that torchrun starts
        self._program = program or command.app(self._config.job)

    def run(self) -> int:
        """Make one attempt; its exit code."""
        if self._place.node_rank == 0 and self._exhausted():
            return self._give_up()
        attempt = self._open() if self._place.node_rank == 0 else self._join()
        if attempt is None:
            return EXIT_OF[Cause.YIELDED if self._stop else Cause.CRASHED]
        logs = self._run.store.child(f"{LOGS}/attempt-{attempt.number:04d}")
        log = Log(logs.child(f"node-{self._place.node_rank:04d}"))
        watch = self._watch()
        verdict = decide(self._attend(attempt, watch, log, logs))
        return self._close(attempt, verdict, watch, log)

    # --- the ledger

    def _exhausted(self) -> bool:
        return self._ledger.fruitless() >= self._config.health.max_fruitless_attempts

    def _give_up(self) -> int:
        """Record that the restart budget is spent. Only a person starts the run again."""
        count, last = self._ledger.fruitless(), self._ledger.last()
        why = f"{last.cause} {last.message}".strip() if last else ""
        message = (
            f"{count} attempts in a row made nothing durable, the last: {why}. "
            f"Mend that, then goku-platform resume {self._run.name}."
        )
        attempt = self._open()
        verdict = Verdict(Cause.NO_PROGRESS, message)
        ended = record.closed(attempt, verdict, self._watch(), ended_at=time.time())
        self._ledger.close(ended)
        return _refuse(message, ended.exit_code or Exit.NO_PROGRESS)

    def _open(self) -> Attempt:
        return self._ledger.open(
            host=socket.gethostname(),
            nodes=self._place.nodes,
            processes_per_node=self._processes,
        )

    def _join(self) -> Attempt | None:
        """The attempt that node 0 has opened; None if it opens none or a stop comes first."""
        deadline = time.monotonic() + self._config.health.start_budget_seconds
        while not self._stop and time.monotonic() < deadline:
            attempt = self._ledger.last()
            if attempt is not None and attempt.cause is Cause.RUNNING:
                return attempt
            time.sleep(_JOIN_SECONDS)
        return None

    def _close(self, attempt: Attempt, verdict: Verdict, watch: Watch, log: Log) -> int:
        ended = record.closed(attempt, verdict, watch, ended_at=time.time())
        log.say(record.summary(ended))
        if self._place.node_rank == 0:
            self._write(ended, log)
        log.close()
        _tell_kubelet(record.summary(ended))
        return EXIT_OF[verdict.cause]

    def _write(self, attempt: Attempt, log: Log) -> None:
        """The record outlives everything else: a store that stumbles is asked again."""
        for _ in range(_CLOSE_TRIES):
            try:
                self._ledger.close(attempt)
            except Exception as error:  # every driver has exceptions of its own
                log.say(f"warning: the attempt's record was not written ({error})")
                time.sleep(_CLOSE_SECONDS)
            else:
                return

    # --- the ranks

    @property
    def _processes(self) -> int:
        """Ranks on this node."""
        if not self._grouped:
            return 1
        return self._place.processes or self._config.parallel.processes_per_node

    @property
    def _ranks(self) -> frozenset[int]:
        first = self._place.node_rank * self._processes
        return frozenset(range(first, first + self._processes))

    def _watch(self) -> Watch:
        # Only training is sure to have heartbeats; another app that sends one is held to the rest.
        budget = self._config.health.start_budget_seconds if self._grouped else None
        return Watch(self._pod, self._ranks, start_budget=budget)

    def _attend(self, attempt: Attempt, watch: Watch, log: Log, logs: Store) -> Evidence:
        """Start the ranks, see them to their end, and gather what is known of it."""
        if self._stop:
            return Evidence(self._ranks, {}, exit_code=None)
        budget, kills = self._config.checkpoint.stop_budget_seconds, oom_kills()
        program = self._start(attempt, log)
        ending = Attendant(
            program,
            watch,
            stop=self._stop,
            pod=self._pod,
            stop_budget=budget,
            settle_seconds=self._settle_seconds,
        ).run()
        if ending != Ending():
            self._keep_stacks(watch, logs, log)
        code = program.end()
        watch.look()
        return Evidence(
            ranks=self._ranks,
            verdicts=watch.verdicts,
            failures=outcome.read(self._outcome),
            exit_code=code,
            hang=ending.hang,
            overran_seconds=budget if ending.overran else None,
            oom_kills=oom_kills() - kills,
            saved=self._saved(watch),
        )

    def _saved(self, watch: Watch) -> bool:
        """Whether a checkpoint holds the last step. Rank 0 commits, so only its node can tell."""
        elsewhere = self._place.node_rank > 0
        return elsewhere or watch.last_step is None or watch.last_step == watch.durable_step

    def _start(self, attempt: Attempt, log: Log) -> Program:
        self._pod.clear()
        self._outcome.unlink(missing_ok=True)
        line = self._command()
        log.say(f"attempt {attempt.number} of {self._run.name} on {attempt.host}: {' '.join(line)}")
        environ = command.environment(
            os.environ, self._place, attempt=attempt, processes=self._processes
        )
        program = Program(line, environ)
        log.follow(program.output)
        return program

    def _command(self) -> list[str]:
        if not self._grouped:
            return command.alone(self._program)
        scratch = self._pod.folder / "torchrun"
        shutil.rmtree(scratch, ignore_errors=True)  # the last attempt's; torchrun never cleans up
        return command.under_torchrun(
            self._program,
            self._place,
            processes=self._processes,
            outcome=self._outcome,
            scratch=scratch,
        )

    @property
    def _outcome(self) -> Path:
        return self._pod.folder / outcome.NAME

    def _keep_stacks(self, watch: Watch, logs: Store, log: Log) -> None:
        for path in watch.dump_stacks():
            try:
                logs.write(path.name, path.read_bytes())
            except Exception as error:  # every driver has exceptions of its own
                log.say(f"warning: {path.name} was not kept ({error})")


def _refuse(why: object, code: int) -> int:
    print(f"goku: error: {why}", file=sys.stderr)
    _tell_kubelet(str(why))
    return int(code)


def _tell_kubelet(message: str) -> None:
    if _TERMINATION_LOG.exists():
        with suppress(OSError):
            _TERMINATION_LOG.write_text(message)
