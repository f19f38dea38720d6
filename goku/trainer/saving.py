"""When the state is saved, and what is told of it: the loop's side of `goku.checkpoint.save`.

A save begins after a step and goes on beside the next ones; `begin_step` takes up its outcome, and
only then the step is called durable. A save to the nodes' own disks is a bonus: it is left out
while another is in flight, and what it saves is durable for nobody.
"""

import time
from collections.abc import Callable, Mapping

from goku.checkpoint import state
from goku.checkpoint.save import Saved, SaveFailed, Saver, Tier
from goku.config.checkpoint import CheckpointConfig
from goku.contract import metrics
from goku.contract.metrics import TimeClass
from goku.contract.rundir import Unsaved
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh
from goku.trainer.clock import Clock
from goku.trainer.ema import Ema
from goku.trainer.health import Health
from goku.trainer.position import Position
from goku.trainer.report import Report

# A save that no later one can make up for is tried again, for a store that is away a moment.
_LAST_TRIES, _LAST_PAUSE_SECONDS = 3, 5.0


class Saving:
    """Saves the state of one attempt. Every method is collective; Fenced is raised by all alike."""

    def __init__(
        self,
        saver: Saver,
        config: CheckpointConfig,
        *,
        position: Position,
        mesh: Mesh,
        engine: Engine,
        ema: Ema,
        health: Health,
        clock: Clock,
        report: Report | None,
    ) -> None:
        """Takes the host memory that it needs. Raises ConfigError where a node has too little."""
        self._saver, self._config, self._position = saver, config, position
        self._mesh, self._engine, self._ema = mesh, engine, ema
        self._health, self._clock, self._report = health, clock, report
        self._measured: tuple[int, dict[str, float]] = (-1, {})
        self._saves, self._last_began = 0, time.monotonic()  # of those to the store
        if config.background:
            saver.reserve(self._pieces())

    def measured(self, losses: Mapping[str, float]) -> None:
        """Validation losses of the weights as they are: a checkpoint of this step has them."""
        named = {f"validation_loss_{weights}": loss for weights, loss in losses.items()}
        self._measured = (self._position.step, named)

    @property
    def ended(self) -> int:
        """Saves that this rank has seen the end of."""
        return self._saver.ended

    @property
    def overdue(self) -> int:
        """The number of the next save to the store if it is due by this rank's clock, else 0."""
        limit = self._config.interval_seconds
        due = limit is not None and time.monotonic() - self._last_began > limit
        return self._saves + 1 if due else 0

    def begin_step(self, ended: int) -> None:
        """Take up the outcome of a save that has ended; so many have on all ranks."""
        self._settle(lambda: self._saver.poll(ended))

    def before_update(self) -> None:
        """Wait until the state may be written: the copy of it has to be whole."""
        if self._saver.in_flight:
            with self._clock.inside(TimeClass.CHECKPOINT_STALL):
                self._saver.release()

    def periodic(self, overdue: int) -> None:
        """Save if this step is one to be saved, or if all ranks know the next save to be overdue.

        A save that fails is made up for by the next.
        """
        step, config = self._position.step, self._config
        if step % config.interval_steps == 0:
            self._wait_for_the_last()
            self._save(Tier.STORE, background=config.background)
        elif self._saver.in_flight:
            return
        elif overdue > self._saves:
            self._save(Tier.STORE, background=config.background)
        elif self._due_on_nodes(step):
            self._save(Tier.NODE, background=config.background)

    def last(self) -> None:
        """Save where no later save will come, unless that is done. Raises the last SaveFailed."""
        self._enter()
        self._settle(self._saver.wait)
        for tries_left in reversed(range(_LAST_TRIES)):
            if self._position.durable_step == self._position.step:
                return
            failure = self._save(Tier.STORE, background=False)
            if failure is not None:
                if not tries_left:
                    raise failure
                time.sleep(_LAST_PAUSE_SECONDS)

    def leave(self) -> None:
        """After a stop request: to the nodes' disks, which takes seconds, and to the store.

        Raises Unsaved if the store does not have the last step in the end.
        """
        undone = self._position.durable_step != self._position.step
        if undone and self._config.local_dir is not None:
            if self._saver.in_flight is Tier.NODE:
                self._enter()
                self._settle(self._saver.wait)
            self._save(Tier.NODE, background=False)  # while the store may still get another
        try:
            self.last()
        except SaveFailed as failure:
            raise Unsaved(f"asked to stop, but {failure}") from failure

    def _due_on_nodes(self, step: int) -> bool:
        interval = self._config.local_interval_steps
        return interval is not None and step % interval == 0

    def _enter(self) -> None:
        self._clock.enter(TimeClass.CHECKPOINT_STALL)
        self._health.section("save")

    def _wait_for_the_last(self) -> None:
        """Back-pressure: the store is slower than the interval asks for."""
        if not self._saver.in_flight:
            return
        self._enter()
        began = time.monotonic()
        self._settle(self._saver.wait)
        if self._report is not None:
            self._report.held_up(self._position.step, seconds=time.monotonic() - began)

    def _save(self, tier: Tier, *, background: bool) -> SaveFailed | None:
        """Begin a save, or make one while training waits: each has the whole budget of a save."""
        self._enter()
        begin: Callable[..., Saved | None] = self._saver.start if background else self._saver.save
        measured_at, losses = self._measured
        if tier is Tier.STORE:
            self._saves, self._last_began = self._saves + 1, time.monotonic()
        if background and self._report is not None:
            self._report.set(metrics.CHECKPOINT_IN_FLIGHT, 1)
        return self._settle(
            lambda: begin(
                self._pieces(),
                step=self._position.step,
                samples_seen=self._position.samples_seen,
                optimizer_steps=self._engine.optimizer_steps,
                metrics=losses if measured_at == self._position.step else {},
                tier=tier,
            )
        )

    def _pieces(self) -> list[state.NamedPiece]:
        return state.pieces(self._engine.fragments(), self._ema.values, rank=self._mesh.rank)

    def _settle(self, outcome: Callable[[], Saved | None]) -> SaveFailed | None:
        """Tell what became of a save: a failed one costs the checkpoint, not the run."""
        try:
            saved = outcome()
        except SaveFailed as failure:
            if self._report is not None:
                self._report.unsaved(failure)
            return failure
        if saved is None:
            return None
        if saved.tier is Tier.STORE:
            self._position.durable_step = saved.step
            self._health.durable(saved.step)
        if self._report is not None:
            self._report.saved(saved)
        return None
