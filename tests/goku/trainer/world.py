"""A small run on disk, with encoded clips made of noise, and a trainer built on it in this rank."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from goku.config import RunConfig, presets
from goku.config.overrides import parse
from goku.contract.attempts import Ledger
from goku.contract.pod import PodDir
from goku.contract.rundir import LATENTS, RunDir
from goku.contract.store import Store
from goku.data.cache import CacheWriter, LatentCache, Meta
from goku.data.encoding import Sample
from goku.data.records import Kind
from goku.trainer.build import build
from goku.trainer.clock import Clock
from goku.trainer.health import Health
from goku.trainer.loop import Trainer

META = Meta(
    vae="v",
    text="t",
    causal=True,
    latent_channels=4,
    text_width=64,
    height=64,
    width=112,
    frames=17,
    fps=12,
)


def encode(store: Path | str) -> None:
    """24 images and 12 clips of noise in `<store>/encode/latents`."""
    generator = torch.Generator().manual_seed(0)
    cache = LatentCache(Store(f"{store}/encode/{LATENTS}"))
    cache.begin(META, torch.randn(1, 64, generator=generator))
    writer = CacheWriter(cache)
    for number in range(36):
        frames = 1 if number < 24 else 2 + number % 4
        shape = (4, frames, *((8, 14), (14, 8), (10, 10))[number % 3])
        latent_CTHW = torch.randn(*shape, generator=generator)
        text_LY = torch.randn(2 + number % 5, 64, generator=generator)
        kind = Kind.IMAGE if frames == 1 else Kind.VIDEO
        writer.add(f"c{number:02d}", kind, Sample(latent_CTHW, text_LY, latent_CTHW[:, 0]))
    writer.flush()
    cache.complete()


def configure(store: Path | str, name: str, *settings: str) -> RunConfig:
    """A tiny training run on those clips, that starts afresh and never saves by itself."""
    defaults = (
        "training.steps=8",
        "training.init_from=none",
        "training.validation_samples=0",
        "checkpoint.interval_steps=1000",
        "data.packs_per_step=4",
    )
    overrides = parse([*defaults, *settings])
    return presets.build("stage2", store=str(store), size="tiny", name=name, overrides=overrides)


def trainer_of(config: RunConfig, folder: Path) -> Trainer:
    """This rank's trainer, in the attempt that its rank 0 opens; `folder` is the pod's."""
    run = RunDir(f"{config.store}/{config.name}")
    run.freeze(config, "test")
    rank = int(os.environ["RANK"])
    pod = PodDir(folder)
    health = Health(pod, rank=rank, budgets=config.health)
    attempt = len(Ledger(run).all())
    return build(run, config, attempt=attempt, clock=Clock(time.time()), health=health)


def weights(trainer: Trainer) -> dict[str, Any]:
    """All of this rank's state, by kind and parameter."""
    found: dict[str, Any] = {f"ema/{name}": value for name, value in trainer.ema.values.items()}
    for part in trainer.engine.fragments():
        found |= {
            f"model/{part.name}": part.master.clone(),
            f"exp_avg/{part.name}": part.exp_avg.clone(),
            f"exp_avg_sq/{part.name}": part.exp_avg_sq.clone(),
        }
    return {name: value.clone() for name, value in found.items()}
