"""The assembler: the one place that reads the whole run configuration and makes a Trainer of it.

The order matters: the process group before anything on a device, the engine before the state that
is restored into it, the average after the engine whose fragments it follows.
"""

import os
from functools import cache

import torch

from goku.checkpoint import disk
from goku.checkpoint.save import Saver
from goku.config import RunConfig
from goku.contract import env
from goku.contract.attempts import Ledger
from goku.contract.metrics import TimeClass
from goku.contract.retention import Retention
from goku.contract.rundir import CLIPS, LATENTS, NodeDir, RunDir, locate
from goku.data.balance import Cost, Table
from goku.data.degrees import Sharing
from goku.data.loader import Loader, StepBatch
from goku.data.source import CachedSource, OnlineSource, Source
from goku.flow.timesteps import Timesteps
from goku.model import init
from goku.model.flops import forward_flops, step_flops
from goku.parallel.apply import parallelize
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh, connect
from goku.parallel.tune import Typical
from goku.text.encoder import TextEncoder
from goku.trainer import restart, samples
from goku.trainer.clock import Clock
from goku.trainer.ema import Ema
from goku.trainer.evaluate import Validation
from goku.trainer.health import Health
from goku.trainer.loop import Trainer
from goku.trainer.objective import Objective
from goku.trainer.report import Report
from goku.trainer.saving import Saving
from goku.vae.autoencoder import Autoencoder


def build(run: RunDir, config: RunConfig, *, attempt: int, clock: Clock, health: Health) -> Trainer:
    """Everything a rank trains with, restored from the run's latest checkpoint if it has one.

    Raises ConfigError for what the user must mend, CorruptCheckpoint for state that has changed.
    """
    mesh = connect(config.parallel)
    node = _node_dir(run, config, mesh, attempt)
    source = _source(config, mesh)
    seen = samples.require_same(source.entries, config, mesh)
    loader = _loader(source, config, mesh)
    objective = Objective(Timesteps(config.flow), config.training.seed, mesh)
    validation = Validation(list(loader.validation()), objective, mesh)
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
        loader=loader,
        objective=objective,
        validation=validation,
        health=health,
        clock=clock,
        report=report,
        saving=saving,
        flops=lambda batch: _flops(config, batch),
        highest_step=max((a.last_step or 0 for a in Ledger(run).all()), default=0),
    )


def _loader(source: Source, config: RunConfig, mesh: Mesh) -> Loader:
    return Loader(
        source,
        config.data,
        patch=config.model.patch_size,
        data_rank=mesh.data_rank,
        data_ranks=mesh.data,
        holdout=config.training.validation_samples,
        image_conditioned=config.model.image_conditioned,
        cost=cost_of(config),
        sharing=sharing_of(config),
        pinned=mesh.device.type == "cuda",
    )


def sharing_of(config: RunConfig) -> Sharing:
    """What a sequence group does with a pack: by measured time where there is some, else by FLOPs.

    Never by tokens: runs that finish together are more than runs of as many tokens.
    """
    measured = cost_of(config) if config.data.balance == "measured" else None
    cost = cache(measured or _flops_of_sample(config))
    return Sharing.of(config.parallel, config.data.pack_tokens, cost)


def cost_of(config: RunConfig) -> Cost | None:
    """What a sample of so many tokens costs, as data.balance wants it counted."""
    if config.data.costs is not None:
        return Table.read(config.data.costs)
    counted: dict[str, Cost] = {"tokens": float, "flops": _flops_of_sample(config)}
    return counted.get(config.data.balance)


def _flops_of_sample(config: RunConfig) -> Cost:
    text = [config.text.max_tokens]
    return lambda tokens: float(forward_flops(config.model, [tokens], text))


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
        typical=typical_of(config),
    )


def typical_of(config: RunConfig) -> Typical:
    """The run's largest samples, as many as a pack holds, and images in what they leave."""
    clip, room = config.sample_tokens, config.data.pack_tokens
    image = clip // config.data.latent_shape[0]
    clips, images = room // clip, room % clip // image
    lengths = (clip,) * clips + (image,) * images
    return Typical(config.model, lengths, (config.text.max_tokens,) * len(lengths))


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
