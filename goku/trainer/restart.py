"""What an attempt begins with: the run's latest state, a previous stage's weights, or nothing."""

import time
from contextlib import suppress

from goku.checkpoint import state
from goku.checkpoint.load import Checkpoint, restore, start_from
from goku.checkpoint.origin import Origin, latest, newest
from goku.checkpoint.save import Tier
from goku.config import ConfigError, RunConfig
from goku.contract import metrics
from goku.contract.manifest import CorruptCheckpoint
from goku.contract.rundir import NodeDir, RunDir, locate
from goku.contract.samples import Seen
from goku.contract.store import StoreError
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh
from goku.trainer.ema import Ema
from goku.trainer.position import Position
from goku.trainer.report import Report
from goku.trainer.samples import changed


def begin(
    run: RunDir,
    node: NodeDir | None,
    config: RunConfig,
    *,
    engine: Engine,
    ema: Ema,
    mesh: Mesh,
    report: Report | None,
    seen: Seen,
) -> Position:
    """Fill engine and average, and say where training stands. Collective.

    `seen` is what this attempt trains on: rank 0 warns where it went on from other samples.
    Raises CorruptCheckpoint if the latest state has changed, ConfigError if it does not fit.
    """
    started = time.monotonic()
    origin = _resume(run, node, engine, ema, mesh)
    if origin is None and config.training.init_from is not None:
        _begin_from(config.training.init_from, run, config, engine, ema, mesh)
    if report is not None:
        report.set(metrics.RESTORE_SECONDS, time.monotonic() - started)
        if origin is not None and origin.tier is Tier.STORE:
            report.durable(origin.manifest.step, at=origin.manifest.created_at)
        print(_said(run, config, origin), flush=True)
        if origin is not None and (warning := changed(seen, run, config, origin.manifest)):
            print(warning, flush=True)
    if origin is None:
        return Position()
    step = origin.manifest.step
    durable = step if origin.tier is Tier.STORE else -1
    return Position(step, origin.manifest.samples_seen, durable_step=durable)


def _resume(
    run: RunDir, node: NodeDir | None, engine: Engine, ema: Ema, mesh: Mesh
) -> Origin | None:
    """The checkpoint that was restored. One of the nodes' disks that has changed is deleted."""
    wanted = state.sharded(engine.fragments(), ema.values)
    broken: CorruptCheckpoint | None = None
    while origin := newest(run, node, wanted, mesh):
        step = origin.manifest.step
        checkpoint = Checkpoint(origin.run.checkpoint(step), origin.manifest)
        try:
            restore(checkpoint, engine, ema.values, mesh=mesh)
            return origin
        except CorruptCheckpoint as error:
            if origin.tier is Tier.STORE:
                raise
            broken = error
        if mesh.local_rank == 0:
            print(f"warning: {broken} It was on this node's disk and is deleted.", flush=True)
            origin.run.remove(step)
        mesh.barrier()
    if broken is not None:
        raise broken  # half of it has been read: this is no fresh start
    return None


def _begin_from(
    origin: str, run: RunDir, config: RunConfig, engine: Engine, ema: Ema, mesh: Mesh
) -> None:
    before = RunDir(locate(config.store, origin))
    manifest = latest(before, mesh)
    if manifest is None:
        raise ConfigError(
            f"training.init_from={origin}",
            f"{before.uri} has no complete checkpoint",
            "Train that stage first, or set training.init_from=none for a fresh start.",
        )
    if mesh.rank == 0:
        with suppress(OSError, StoreError):  # a run of others may be for reading only
            before.pin(manifest.step, run.name)
    checkpoint = Checkpoint(before.checkpoint(manifest.step), manifest)
    new = ("align.",) if config.model.image_conditioned else ()
    start_from(checkpoint, engine, ema.values, mesh=mesh, new=new)


def _said(run: RunDir, config: RunConfig, origin: Origin | None) -> str:
    if origin is not None:
        where = " (from the nodes' disks)" if origin.tier is Tier.NODE else ""
        seen = origin.manifest.samples_seen
        return f"{run.name}: goes on after step {origin.manifest.step}, {seen} samples{where}"
    before = config.training.init_from
    return f"{run.name}: begins " + (f"with the weights of {before}" if before else "afresh")
