"""One node of an attempt: its ranks started, attended to their end, and what is known of it."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from goku.config import RunConfig
from goku.contract import outcome
from goku.contract.attempts import Attempt
from goku.contract.pod import PodDir, Verdict
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku_platform.supervisor import command, logs
from goku_platform.supervisor.attend import Attendant, Ending
from goku_platform.supervisor.gang import Alarm, Gang, Report
from goku_platform.supervisor.logs import Log
from goku_platform.supervisor.memory import oom_kills
from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.program import Program
from goku_platform.supervisor.pulse import Heart
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.verdict import Evidence, decide
from goku_platform.supervisor.watch import Watch
from goku_platform.supervisor.within import within

_KEEP_SECONDS = 20.0  # for the stacks to reach the store
_MESSAGE_CHARS = 4000  # of a rank's last words: an exception may print a whole tensor


class Node:
    """The ranks of this pod."""

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        place: Placement,
        *,
        stop: StopRequest,
        gang: Gang,
        settle_seconds: float,
        program: Sequence[str] | None = None,
    ) -> None:
        """`program` are arguments to Python in place of the job's app."""
        self._run, self._config, self._place = run, config, place
        self._stop, self._gang, self._settle_seconds = stop, gang, settle_seconds
        self._grouped = config.job.spread  # over ranks that torchrun starts
        self._program = program or command.app(config.job)
        self._pod = PodDir(place.pod_folder)

    @property
    def processes(self) -> int:
        """Ranks on this node."""
        if not self._grouped:
            return 1
        return self._place.processes or self._config.parallel.processes_per_node

    @property
    def ranks(self) -> frozenset[int]:
        first = self._place.node_rank * self.processes
        return frozenset(range(first, first + self.processes))

    def watch(self) -> Watch:
        """Eyes for one attempt; they count the time from now."""
        # Only ranks are sure to have heartbeats; another app that sends one is held to the rest.
        budget = self._config.health.start_budget_seconds if self._grouped else None
        return Watch(self._pod, self.ranks, start_budget=budget)

    def attend(self, attempt: Attempt, watch: Watch, log: Log) -> Report:
        """Start the ranks, see them to their end, and say how it was."""
        if self._stop:  # ranks that another node has started wait for ours, and would for long
            self._gang.raise_alarm(Alarm(stopping=True, failing=True))
            return self._report(Evidence(self.ranks, {}, exit_code=None), watch)
        kills = oom_kills()
        program = self._start(attempt, log)
        ending = self._see_to_the_end(program, attempt, watch)
        if ending.puzzling or self._gang.alarm.stacks:
            self._keep_stacks(watch, logs.folder(self._run, attempt.number), log)
        code = program.end()
        watch.look()
        seen = Evidence(
            ranks=self.ranks,
            verdicts=watch.verdicts,
            failures=outcome.read(self._outcome),
            exit_code=code,
            hang=ending.hang,
            overran_seconds=self._stop_budget if ending.overran else None,
            oom_kills=oom_kills() - kills,
            saved=self._saved(watch),
            fenced=ending.fenced,
            followed=ending.followed,
            cleared_at=program.killed_at,
        )
        return self._report(seen, watch)

    def _see_to_the_end(self, program: Program, attempt: Attempt, watch: Watch) -> Ending:
        rank, hosts = self._place.node_rank, self._gang.hosts
        with Heart(self._run, attempt, watch, node_rank=rank, hosts=hosts) as heart:
            return Attendant(
                program,
                watch,
                stop=self._stop,
                pod=self._pod,
                gang=self._gang,
                fenced=lambda: heart.fenced,
                stop_budget=self._stop_budget,
                settle_seconds=self._settle_seconds,
            ).run()

    def _report(self, seen: Evidence, watch: Watch) -> Report:
        verdict = decide(seen)
        if verdict is not None:
            verdict = Verdict(verdict.cause, verdict.message[:_MESSAGE_CHARS])
        return Report(
            node_rank=self._place.node_rank,
            host=self._place.host,
            verdict=verdict,
            steps=watch.steps,
        )

    def _saved(self, watch: Watch) -> bool:
        """Whether a checkpoint holds the last step. Rank 0 commits, so only its node can tell."""
        elsewhere, steps = self._place.node_rank > 0, watch.steps
        return elsewhere or steps.last is None or steps.last == steps.durable

    def _start(self, attempt: Attempt, log: Log) -> Program:
        self._pod.clear()
        self._outcome.unlink(missing_ok=True)
        line = self._command()
        where = f"{self._run.name} on {self._place.host}"
        log.say(f"attempt {attempt.number} of {where}: {' '.join(line)}")
        environ = command.environment(
            os.environ, self._place, attempt=attempt, processes=self.processes
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
            processes=self.processes,
            outcome=self._outcome,
            scratch=scratch,
        )

    @property
    def _stop_budget(self) -> float:
        return self._config.checkpoint.stop_budget_seconds

    @property
    def _outcome(self) -> Path:
        return self._pod.folder / outcome.NAME

    def _keep_stacks(self, watch: Watch, folder: Store, log: Log) -> None:
        """Have the ranks write their stacks, and bring them to the store if it takes them."""
        paths = watch.dump_stacks()

        def keep() -> bool:
            for path in paths:
                try:
                    folder.write(path.name, path.read_bytes())
                except Exception as error:  # every driver has exceptions of its own
                    log.warn(f"{path.name} was not kept ({error})")
            return True

        if not within(_KEEP_SECONDS, keep):
            log.warn(f"{folder.uri} took too long over the stacks")
