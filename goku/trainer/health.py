"""A rank's side of health: it says what it is doing and for how long at most, and hears "stop".

Every heartbeat names a section of the work and the section's budget; the supervisor ends the
attempt when one is overdue. Signals only set a flag: a rank leaves between micro-steps, when all
of them have agreed to, never from a handler.
"""

import faulthandler
import os
import signal
import time
from contextlib import ExitStack
from types import FrameType
from typing import Literal, TextIO

from goku.config.health import HealthConfig
from goku.contract.pod import PodDir, Progress
from goku.trainer.clock import Clock

Section = Literal["start", "step", "save", "validate", "done"]

# Between two heartbeats of one section. Short, because the last heartbeat of a killed rank is all
# that the ledger knows of its steps; one heartbeat costs about 0.1 ms.
_BEAT_SECONDS = 0.1


class Health:
    """Heartbeats and the stop flag of one rank. `metrics_port` is shown to those who scrape."""

    def __init__(
        self,
        pod: PodDir,
        *,
        rank: int,
        budgets: HealthConfig,
        clock: Clock | None = None,
        metrics_port: int | None = None,
    ) -> None:
        self._pod, self._rank, self._clock = pod, rank, clock
        self._budgets: dict[Section, float] = {
            "start": budgets.start_budget_seconds,
            "step": budgets.step_budget_seconds,
            "save": budgets.save_budget_seconds,
            "validate": budgets.validate_budget_seconds,
            "done": budgets.step_budget_seconds,  # leaving the process group can hang as a step can
        }
        self.metrics_port = metrics_port
        self._section: Section = "start"
        self._first_step: int | None = None
        self._step: int | None = None
        self._durable_step: int | None = None
        self._beat_at = 0.0  # monotonic seconds
        self._asked = False
        self._stacks: TextIO | None = None

    def install(self) -> None:
        """Catch the signals and give the first heartbeat. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask)
        # faulthandler writes from C, so that it works while another thread or a collective holds
        # the interpreter; it needs a file that is open already.
        self._stacks = self._pod.stacks_path(self._rank).open("w")
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True)
        self.beat()

    def uninstall(self) -> None:
        """Write no more stacks and free their file; the other handlers stay."""
        if self._stacks is not None:
            faulthandler.unregister(signal.SIGUSR2)
            self._stacks.close()

    def section(self, name: Section) -> ExitStack:
        """Enter a section now. As a context manager it goes back to the one before."""
        outer = self._section
        self._enter(name)
        back = ExitStack()
        back.callback(self._enter, outer)
        return back

    def started(self, step: int) -> None:
        """The attempt begins after `step`, which a checkpoint holds (0: a fresh start)."""
        self._first_step = self._step = self._durable_step = step
        self.beat()

    def finished(self, step: int) -> None:
        """An optimizer step is done; the next has its whole budget."""
        self._step = step
        if time.monotonic() - self._beat_at >= _BEAT_SECONDS:
            self.beat()

    def durable(self, step: int) -> None:
        """A checkpoint of `step` is committed."""
        self._durable_step = step
        self.beat()

    def beat(self) -> None:
        """Write a heartbeat: the section's budget starts anew."""
        self._beat_at = time.monotonic()
        self._pod.beat(self._progress())

    def stop_requested(self) -> bool:
        """Whether this rank was asked to save and leave. Cheap: for every micro-step."""
        return self._asked or self._pod.stop_requested()

    def _enter(self, section: Section) -> None:
        self._section = section
        self.beat()

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True

    def _progress(self) -> Progress:
        return Progress(
            rank=self._rank,
            pid=os.getpid(),
            section=self._section,
            budget_seconds=self._budgets[self._section],
            first_step=self._first_step,
            step=self._step,
            durable_step=self._durable_step,
            seconds=self._clock.seconds() if self._clock else {},
            metrics_port=self.metrics_port,
        )
