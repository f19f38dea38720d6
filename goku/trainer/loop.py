"""The training loop: steps, logs, validation, checkpoints, and leaving when asked to.

A stop request is looked for before every micro-batch and agreed on by all ranks while that is
computed, so that one pod's request stops all at the same place, a micro-batch later. What a
half-finished step had added up is dropped: state moves only in whole steps, and the save that
follows holds the last of them.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from goku.config.errors import ConfigError
from goku.config.training import TrainingConfig
from goku.contract import metrics
from goku.contract.exits import Cause
from goku.contract.metrics import TimeClass
from goku.data.loader import Feed, StepBatch
from goku.nn.spans import fetch
from goku.parallel.compile import graphs
from goku.parallel.engine import Engine
from goku.parallel.mesh import Later, Mesh
from goku.trainer.clock import Clock
from goku.trainer.ema import Ema
from goku.trainer.evaluate import Validation
from goku.trainer.health import Health
from goku.trainer.objective import Objective
from goku.trainer.optim import learning_rate
from goku.trainer.polls import Answers, Polls
from goku.trainer.position import Position
from goku.trainer.report import BINS, Report
from goku.trainer.saving import Saving

_SETTLED_STEPS = 10  # of an attempt: blocks are compiled, and what stays has been made


@dataclass(frozen=True)
class Trainer:
    """The parts of a training run, built; `train` moves `position` to the end or to a stop."""

    config: TrainingConfig
    max_nonfinite_steps: int
    position: Position
    mesh: Mesh
    engine: Engine
    ema: Ema
    feed: Feed
    objective: Objective
    validation: Validation
    health: Health
    clock: Clock
    report: Report | None  # rank 0 only
    saving: Saving
    flops: Callable[[StepBatch], int]  # of the packs that a batch has
    highest_step: int  # of all earlier attempts: steps up to it are done again

    def close(self) -> None:
        """Write the last metrics and leave the process group, together with the other ranks."""
        self.clock.enter(TimeClass.SHUTDOWN)
        self.health.section("done")
        if self.report is not None:
            self.report.flush(force=True)
        self.mesh.close()


def train(trainer: Trainer) -> Cause:
    """Train to the last step or to a stop request; the state is durable when this returns.

    A periodic save that fails is counted and made up for by the next. Raises Unsaved if the save
    after a stop request fails, SaveFailed if the one after the last step does, and Fenced.
    """
    if advance(trainer, trainer.config.steps):
        trainer.saving.last()
        return Cause.DONE
    trainer.saving.leave()
    return Cause.YIELDED


def advance(trainer: Trainer, until: int) -> bool:
    """Train until the step numbered `until` is done; False where a stop was asked for before.

    Saves are the periodic ones alone. Raises Fenced.
    """
    position, config, untold = trainer.position, trainer.config, _Untold()
    polls = Polls(
        trainer.mesh,
        stop=trainer.health.stop_requested,
        overdue=lambda: trainer.saving.overdue,
        ended=lambda: trainer.saving.ended,
    )
    steps = iter(trainer.feed.steps(position.samples_seen))
    settled = position.step + _SETTLED_STEPS
    updates, nonfinite = trainer.engine.optimizer_steps, 0
    while position.step < until:
        trainer.clock.enter(_step_class(trainer))
        answers = polls.answers()
        trainer.saving.begin_step(answers.ended)
        if answers.stop:
            untold.tell()
            return False
        trainer.health.section("step")
        asked = time.perf_counter()
        with trainer.clock.inside(TimeClass.DATA_WAIT):
            batch = next(steps)
        started = time.perf_counter()
        done = _forward_backward(trainer, batch, polls)
        untold.tell()
        if done is None:
            return False
        rate = learning_rate(config, position.step)
        trainer.saving.before_update()
        norm = trainer.engine.step(rate)
        nonfinite = 0 if math.isfinite(norm) else nonfinite + 1
        if nonfinite == 0:
            updates += 1  # counted here as well: to read the engine's would wait for the update
            trainer.ema.update(updates)
        position.step += 1
        position.samples_seen = batch.samples_seen
        trainer.health.finished(position.step)
        row = {
            "step": float(position.step),
            "grad_norm": norm,
            "learning_rate": rate,
            "data_wait_seconds": started - asked,
            "step_seconds": time.perf_counter() - started,
            "samples_seen": float(position.samples_seen),
            "compiled_graphs": float(graphs()),
            "imbalance": batch.imbalance,
            "sequence_degree": batch.degree,
        }
        untold.put(partial(_tell, trainer, batch, row, done.sums(trainer.mesh)))
        if nonfinite or _validates(trainer) or position.step == until:
            untold.tell()
        _check_finite(trainer, nonfinite)
        if position.step == settled:
            _settle()
        _periodic(trainer, polls, answers)
    return True


class _Untold:
    """A step that is done and that nobody was told of.

    Its sums travel to all ranks, its metrics and its line wait until the accelerator has the next
    step to compute: before that it would have nothing to do meanwhile.
    """

    def __init__(self) -> None:
        self._tell: Callable[[], None] | None = None

    def put(self, tell: Callable[[], None]) -> None:
        """What is to be done. Collective."""
        self._tell = tell

    def tell(self) -> None:
        """Do it, unless it was done."""
        tell, self._tell = self._tell, None
        if tell:
            tell()


def _settle() -> None:
    """Have the garbage collector leave alone what there is: 300,000 objects of imports and modules.

    To look through them takes 0.1 s, every few hundred steps and in each rank at another one, for
    which all ranks wait.
    """
    gc.collect()
    gc.freeze()


class _Done(NamedTuple):
    """A step's forwards and backwards, some of which the accelerator still computes."""

    loss: Callable[[], torch.Tensor]  # of its samples on this rank, summed; waits for it
    flops: float  # of this rank
    times: list[torch.Tensor]  # of the samples of its packs

    def sums(self, mesh: Mesh) -> Later:
        """Loss, FLOPs and the histogram of timesteps of all ranks, float64 [2 + BINS].

        Collective; waits for the loss alone.
        """
        counts = torch.histc(torch.cat(self.times), BINS, 0, 1)
        if mesh.sequence_rank:  # those who share a pack have the same times
            counts.zero_()
        own = torch.tensor([float(self.loss()), self.flops], dtype=torch.float64)
        return mesh.total(torch.cat([own, counts]))


def _forward_backward(trainer: Trainer, batch: StepBatch, polls: Polls) -> _Done | None:
    """All micro-batches of a step. None to stop instead.

    Packs are let go of one by one, while the accelerator still computes them.
    """
    mesh, packs = trainer.mesh, len(batch.packs) * trainer.mesh.data
    flops = trainer.flops(batch) / mesh.sequence
    total = torch.zeros((), dtype=torch.float64, device=mesh.device)  # read once, in the end
    times = []
    for index in range(len(batch.packs)):
        if index and polls.answers().stop:
            return None
        pack = batch.packs.pop(0)
        t_S = trainer.objective.times(pack)
        loss = trainer.objective.loss(trainer.engine.module, pack, t_S)
        # The engine averages over packs and ranks; what counts is the mean over samples.
        trainer.engine.backward(loss * (packs * mesh.sequence / batch.samples))
        total += loss.detach()
        times.append(t_S)
        del pack
    return _Done(fetch(total), flops, times)


def _step_class(trainer: Trainer) -> TimeClass:
    again = trainer.position.step < trainer.highest_step
    return TimeClass.ROLLBACK if again else TimeClass.PRODUCTIVE


def _tell(
    trainer: Trainer,
    batch: StepBatch,
    row: dict[str, float],
    sums: Later,
) -> None:
    loss, flops, *times = sums().tolist()
    report, step = trainer.report, int(row["step"])
    if report is None:
        return
    row["loss"] = loss / batch.samples
    report.stepped(row, tokens=batch.tokens, samples=batch.samples, flops=flops)
    report.drew(times)
    report.set(metrics.HIGHEST_STEP, max(step, trainer.highest_step))
    if not math.isfinite(row["grad_norm"]):
        report.add(metrics.NONFINITE)
    if step % trainer.config.log_interval_steps == 0:
        report.line(tokens_per_second=batch.tokens / row["step_seconds"])
    report.flush()


def _check_finite(trainer: Trainer, nonfinite: int) -> None:
    if nonfinite >= trainer.max_nonfinite_steps:
        raise ConfigError(
            f"step {trainer.position.step}",
            f"the gradient was not finite {nonfinite} times in a row",
            "Lower training.learning_rate or training.clip_norm; the last checkpoint is sound.",
        )


def _validates(trainer: Trainer) -> bool:
    due = trainer.position.step % trainer.config.validation_interval_steps == 0
    return bool(trainer.validation) and due


def _periodic(trainer: Trainer, polls: Polls, answers: Answers) -> None:
    if _validates(trainer):
        _validate(trainer, polls)
    if trainer.position.step < trainer.config.steps:
        trainer.saving.periodic(answers.overdue)


def _validate(trainer: Trainer, polls: Polls) -> None:
    trainer.clock.enter(TimeClass.VALIDATION)
    trainer.health.section("validate")

    def stop() -> bool:
        trainer.health.beat()
        return polls.answers().stop

    losses = trainer.validation.losses(trainer.engine, trainer.ema, stop)
    trainer.saving.measured(losses)
    if trainer.report is None or not losses:
        return
    for weights, loss in losses.items():
        trainer.report.set(metrics.VALIDATION_LOSS, loss, weights=weights)
    trainer.report.note(**{f"validation_loss_{name}": loss for name, loss in losses.items()})
    text = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    print(f"step {trainer.position.step}  validation loss: {text}", flush=True)
