"""The assembler: the one place that reads the whole run configuration and makes a Trainer of it.

The order matters: the process group before anything on a device, the engine before the state that
is restored into it, the average after the engine whose fragments it follows.
"""

import os

import torch

from goku.checkpoint import disk
from goku.checkpoint.save import Saver
from goku.config import RunConfig
from goku.config.memory import typical_of
from goku.contract import env
from goku.contract.attempts import Ledger
from goku.contract.metrics import TimeClass
from goku.contract.retention import Retention
from goku.contract.rundir import NodeDir, RunDir
from goku.data.loader import StepBatch
from goku.flow.timesteps import Timesteps
from goku.model import init
from goku.model.flops import step_flops
from goku.parallel.apply import parallelize
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh, connect
from goku.trainer import restart, samples
from goku.trainer.clock import Clock
from goku.trainer.ema import Ema
from goku.trainer.evaluate import Validation
from goku.trainer.feed import feed_of, loader_of, source_of
from goku.trainer.health import Health
from goku.trainer.loop import Trainer
from goku.trainer.objective import Objective
from goku.trainer.report import Report
from goku.trainer.saving import Saving


def build(run: RunDir, config: RunConfig, *, attempt: int, clock: Clock, health: Health) -> Trainer:
    """Everything a rank trains with, restored from the run's latest checkpoint if it has one.

    Raises ConfigError for what the user must mend, CorruptCheckpoint for state that has changed.
    """
    mesh = connect(config.parallel)
    node = _node_dir(run, config, mesh, attempt)
    source = source_of(config, mesh)
    seen = samples.require_same(source.entries, config, mesh)
    pinned = mesh.device.type == "cuda"
    loader = loader_of(
        source, config, data_rank=mesh.data_rank, data_ranks=mesh.data, pinned=pinned
    )
    objective = Objective(Timesteps(config.flow), config.training.seed, mesh)
    validation = Validation(loader.validation(), objective, mesh)
    feed = feed_of(loader, source, config, mesh)
    engine = _engine(config, mesh)
    ema = Ema(engine.fragments(), decay=config.training.ema_decay)
    report = _report(run, config, clock, attempt) if mesh.rank == 0 else None
    if mesh.rank == 0:
        samples.record(seen, run, attempt)
    # Nothing here draws from the global generators; what a researcher adds may, and must resume.
    torch.manual_seed(config.training.seed + mesh.rank)
    with clock.inside(TimeClass.RESTORE):
        position = restart.begin(
            run, node, config, engine=engine, ema=ema, mesh=mesh, report=report, seen=seen
        )
    health.started(position.step)
    saving = Saving(
        _saver(run, node, config, mesh, attempt, position.step),
        config.checkpoint,
        position=position,
        mesh=mesh,
        engine=engine,
        ema=ema,
        health=health,
        clock=clock,
        report=report,
    )
    return Trainer(
        config=config.training,
        max_nonfinite_steps=config.health.max_nonfinite_steps,
        position=position,
        mesh=mesh,
        engine=engine,
        ema=ema,
        feed=feed,
        objective=objective,
        validation=validation,
        health=health,
        clock=clock,
        report=report,
        saving=saving,
        flops=lambda batch: _flops(config, batch),
        highest_step=max((a.last_step or 0 for a in Ledger(run).all()), default=0),
    )


def _engine(config: RunConfig, mesh: Mesh) -> Engine:
    model = init.build(config.model, seed=config.training.seed, device=mesh.device)
    return parallelize(
        model,
        config.parallel,
        config.training,
        mesh,
        config.micro_batches,
        typical=typical_of(config),
    )


def _node_dir(run: RunDir, config: RunConfig, mesh: Mesh, attempt: int) -> NodeDir | None:
    """The run's folder on this node's own disk, under this attempt's fence."""
    if config.checkpoint.local_dir is None:
        return None
    node = NodeDir(f"{config.checkpoint.local_dir}/{run.name}-{run.identity()}")
    disk.take(node, attempt, mesh)
    return node


def _saver(
    run: RunDir, node: NodeDir | None, config: RunConfig, mesh: Mesh, attempt: int, began_at: int
) -> Saver:
    kept = config.checkpoint
    return Saver(
        run,
        mesh,
        attempt=attempt,
        config_digest=config.digest(),
        code_version=os.environ.get(env.CODE_VERSION, "unknown"),
        retention=Retention(
            kept.keep_last, kept.keep_every_steps, kept.keep_best, kept.best_metric
        ),
        node=node,
        in_use=(began_at,),
    )


def _report(run: RunDir, config: RunConfig, clock: Clock, attempt: int) -> Report:
    return Report(
        run, clock, stage=config.preset, attempt=attempt, target_step=config.training.steps
    )


def _flops(config: RunConfig, batch: StepBatch) -> int:
    layouts = (pack.layout for pack in batch.packs)
    return sum(step_flops(config.model, la.full_lengths, la.text_lengths) for la in layouts)
