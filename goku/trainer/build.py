"""The assembler: the one place that reads the whole run configuration and makes a Trainer of it.

The order matters: the process group before anything on a device, the engine before the state that
is restored into it, the average after the engine whose fragments it follows.
"""

import os
import time
from collections.abc import Callable

import torch

from goku.checkpoint import state
from goku.checkpoint.load import Checkpoint, restore, start_from
from goku.checkpoint.save import Saved, Saver
from goku.config import ConfigError, RunConfig
from goku.contract import env, metrics
from goku.contract.attempts import Ledger
from goku.contract.metrics import TimeClass
from goku.contract.rundir import CLIPS, LATENTS, RunDir, locate
from goku.data.loader import Loader, StepBatch
from goku.data.source import CachedSource, OnlineSource, Source
from goku.flow.timesteps import Timesteps
from goku.model import init
from goku.model.flops import step_flops
from goku.parallel.apply import parallelize
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh, connect
from goku.parallel.tune import Typical
from goku.text.encoder import TextEncoder
from goku.trainer.clock import Clock
from goku.trainer.ema import Ema
from goku.trainer.evaluate import Validation
from goku.trainer.health import Health
from goku.trainer.loop import Position, Trainer
from goku.trainer.objective import Objective
from goku.trainer.report import Report
from goku.vae.autoencoder import Autoencoder


def build(run: RunDir, config: RunConfig, *, attempt: int, clock: Clock, health: Health) -> Trainer:
    """Everything a rank trains with, restored from the run's latest checkpoint if it has one.

    Raises ConfigError for what the user must mend, CorruptCheckpoint for state that has changed.
    """
    mesh = connect(config.parallel)
    loader = _loader(config, mesh)
    objective = Objective(Timesteps(config.flow), config.training.seed, mesh)
    validation = Validation(list(loader.validation()), objective, mesh)
    engine = _engine(config, mesh)
    ema = Ema(engine.fragments(), decay=config.training.ema_decay)
    report = _report(run, config, clock, attempt) if mesh.rank == 0 else None
    # Nothing here draws from the global generators; what a researcher adds may, and must resume.
    torch.manual_seed(config.training.seed + mesh.rank)
    with clock.inside(TimeClass.RESTORE):
        position = _restore(run, config, engine, ema, mesh, report)
    health.started(position.step)
    return Trainer(
        config=config.training,
        save_interval=config.checkpoint.interval_steps,
        max_nonfinite_steps=config.health.max_nonfinite_steps,
        position=position,
        mesh=mesh,
        engine=engine,
        ema=ema,
        loader=loader,
        objective=objective,
        validation=validation,
        health=health,
        clock=clock,
        report=report,
        save=_saving(run, config, engine, ema, mesh, attempt),
        flops=lambda batch: _flops(config, batch),
        highest_step=max((a.last_step or 0 for a in Ledger(run).all()), default=0),
    )


def _loader(config: RunConfig, mesh: Mesh) -> Loader:
    return Loader(
        _source(config, mesh),
        config.data,
        patch=config.model.patch_size,
        data_rank=mesh.data_rank,
        data_ranks=mesh.data,
        holdout=config.training.validation_samples,
        image_conditioned=config.model.image_conditioned,
    )


def _source(config: RunConfig, mesh: Mesh) -> Source:
    data, model = config.data, config.model
    if data.latents is not None:
        return CachedSource(
            f"{locate(config.store, data.latents)}/{LATENTS}",
            latent_channels=model.latent_channels,
            text_width=model.text_width,
        )
    return OnlineSource(
        f"{locate(config.store, data.clips)}/{CLIPS}",
        vae=Autoencoder.load(config.vae, latent_channels=model.latent_channels, device=mesh.device),
        text=TextEncoder.load(config.text, width=model.text_width, device=mesh.device),
        config=data,
    )


def _engine(config: RunConfig, mesh: Mesh) -> Engine:
    model = init.build(config.model, seed=config.training.seed, device=mesh.device)
    return parallelize(
        model,
        config.parallel,
        config.training,
        mesh,
        config.micro_batches,
        typical=_typical(config),
    )


def _typical(config: RunConfig) -> Typical:
    """The run's largest samples, as many as a pack holds, and images in what they leave."""
    clip, room = config.sample_tokens, config.data.pack_tokens
    image = clip // config.data.latent_shape[0]
    clips, images = room // clip, room % clip // image
    lengths = (clip,) * clips + (image,) * images
    return Typical(config.model, lengths, (config.text.max_tokens,) * len(lengths))


def _restore(
    run: RunDir, config: RunConfig, engine: Engine, ema: Ema, mesh: Mesh, report: Report | None
) -> Position:
    """The run's own latest state; else the previous stage's weights; else a fresh start."""
    started = time.monotonic()
    manifest = mesh.broadcast(run.latest() if mesh.rank == 0 else None)
    if manifest is not None:
        checkpoint = Checkpoint(run.checkpoint(manifest.step), manifest)
        restore(checkpoint, engine, ema.values, mesh=mesh)
        position = Position(manifest.step, manifest.samples_seen, durable_step=manifest.step)
    else:
        position = Position()
        if config.training.init_from is not None:
            _begin_from(config.training.init_from, config, engine, ema, mesh)
    if report is not None:
        report.set(metrics.RESTORE_SECONDS, time.monotonic() - started)
        if manifest is not None:
            report.durable(manifest.step, at=manifest.created_at)
        print(_origin(run, config, position), flush=True)
    return position


def _begin_from(origin: str, config: RunConfig, engine: Engine, ema: Ema, mesh: Mesh) -> None:
    before = RunDir(locate(config.store, origin))
    manifest = mesh.broadcast(before.latest() if mesh.rank == 0 else None)
    if manifest is None:
        raise ConfigError(
            f"training.init_from={origin}",
            f"{before.uri} has no complete checkpoint",
            "Train that stage first, or set training.init_from=none for a fresh start.",
        )
    checkpoint = Checkpoint(before.checkpoint(manifest.step), manifest)
    new = ("align.",) if config.model.image_conditioned else ()
    start_from(checkpoint, engine, ema.values, mesh=mesh, new=new)


def _origin(run: RunDir, config: RunConfig, position: Position) -> str:
    if position.durable_step >= 0:
        return f"{run.name}: goes on after step {position.step}, {position.samples_seen} samples"
    origin = config.training.init_from
    return f"{run.name}: begins " + (f"with the weights of {origin}" if origin else "afresh")


def _saving(
    run: RunDir, config: RunConfig, engine: Engine, ema: Ema, mesh: Mesh, attempt: int
) -> Callable[[Position], Saved]:
    """A function that saves the state at a position."""
    saver = Saver(
        run,
        mesh,
        attempt=attempt,
        config_digest=config.digest(),
        code_version=os.environ.get(env.CODE_VERSION, "unknown"),
        keep=config.checkpoint.keep_last,
    )

    def save(position: Position) -> Saved:
        return saver.save(
            state.pieces(engine.fragments(), ema.values, rank=mesh.rank),
            step=position.step,
            samples_seen=position.samples_seen,
            optimizer_steps=engine.optimizer_steps,
        )

    return save


def _report(run: RunDir, config: RunConfig, clock: Clock, attempt: int) -> Report:
    return Report(
        run, clock, stage=config.preset, attempt=attempt, target_step=config.training.steps
    )


def _flops(config: RunConfig, batch: StepBatch) -> int:
    layouts = (pack.layout for pack in batch.packs)
    return sum(step_flops(config.model, la.full_lengths, la.text_lengths) for la in layouts)
