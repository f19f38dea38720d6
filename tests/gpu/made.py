"""Joint data that nobody filmed: clips of true shapes for the scripts that measure loading.

Half of a stream like this are images of 256 to 512 pixels, the rest clips of 17 to 97 frames and
more; every size is the bucket that an encode run would have read them at.
"""

import random
from typing import Self

import torch

from goku.config import RunConfig
from goku.config.data import DataConfig
from goku.contract.store import Store
from goku.data import buckets
from goku.data.cache import CacheWriter, LatentCache, Meta
from goku.data.catalog import Catalog, Entry
from goku.data.encoding import Sample
from goku.data.records import Kind
from tests.goku.data.fakes import clip

_IMAGES = ((256, 256), (512, 512), (512, 384), (384, 512), (512, 288))  # width, height
_FOOTAGE = ((1920, 1080), (1920, 1080), (1440, 1080), (1080, 1920))
_SECONDS = (0.75, 6.0)  # at 24 frames a second: from 17 frames to more than the 97 that are read
_CAPTION = (0.25, 1.0)  # of the text encoder's tokens


def entries(config: RunConfig, *, images: int, videos: int, seed: int = 0) -> list[Entry]:
    """So many of each kind, sorted by id, at the buckets and captions of this run."""
    draw = random.Random(seed)
    kinds = [Kind.IMAGE] * images + [Kind.VIDEO] * videos
    found = [_entry(f"{kind}-{n:06d}", kind, config, draw) for n, kind in enumerate(kinds)]
    return sorted(found, key=lambda entry: entry.id)


def _entry(id: str, kind: Kind, config: RunConfig, draw: random.Random) -> Entry:
    text_length = round(config.text.max_tokens * draw.uniform(*_CAPTION))
    return Entry(id, kind, _latent(id, kind, config.data, draw), text_length)


def _latent(id: str, kind: Kind, data: DataConfig, draw: random.Random) -> tuple[int, int, int]:
    is_image = kind is Kind.IMAGE
    width, height = draw.choice(_IMAGES if is_image else _FOOTAGE)
    fps = 0.0 if is_image else 24.0
    frames = 1 if is_image else round(fps * draw.uniform(*_SECONDS))
    made = clip(id, kind=kind, width=width, height=height, frames=frames, fps=fps)
    return buckets.size(made, data).latent


class Blank:
    """A Source of zeros: for what only depends on shapes."""

    def __init__(self, entries: list[Entry], *, channels: int, text_width: int) -> None:
        self.entries = Catalog.of([entries])
        self._channels, self._text_width = channels, text_width

    @classmethod
    def of(cls, config: RunConfig, *, images: int, videos: int) -> Self:
        """Of a run's shapes."""
        model, found = config.model, entries(config, images=images, videos=videos)
        return cls(found, channels=model.latent_channels, text_width=model.text_width)

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int, *, caption: bool) -> Sample:
        entry = self.entries[index]
        latent_CTHW = torch.zeros(self._channels, *entry.shape)
        length = entry.text_length if caption and entry.text_length else 1
        return Sample(latent_CTHW, torch.zeros(length, self._text_width), latent_CTHW[:, 0])


def encode(uri: str, entries: list[Entry], config: RunConfig) -> int:
    """Write a cache of latents and embeddings of noise; the bytes that its samples are read from.

    All are cut from one piece of noise: drawing gigabytes would take longer than writing them.
    """
    model = config.model
    cache = LatentCache(Store(uri))
    noise = torch.randn(1 << 24)
    cache.begin(_meta(config), noise[: model.text_width].view(1, -1))
    writer, nbytes = CacheWriter(cache), 0
    for number, entry in enumerate(entries):
        latent_CTHW = _cut(noise, number, (model.latent_channels, *entry.shape))
        text_LY = _cut(noise, number, (entry.text_length or 1, model.text_width))
        writer.add(entry.id, entry.kind, Sample(latent_CTHW, text_LY, latent_CTHW[:, 0]))
        nbytes += 2 * (latent_CTHW.numel() + text_LY.numel())
        if writer.due():
            writer.flush()
    writer.flush()
    cache.complete()
    return nbytes


def _cut(noise: torch.Tensor, number: int, shape: tuple[int, ...]) -> torch.Tensor:
    size = torch.Size(shape).numel()
    start = number * 9_973 % (len(noise) - size)
    return noise[start : start + size].view(shape)


def _meta(config: RunConfig) -> Meta:
    data, model = config.data, config.model
    return Meta(
        vae="noise",
        text="noise",
        causal=True,
        latent_channels=model.latent_channels,
        text_width=model.text_width,
        height=data.height,
        width=data.width,
        frames=data.frames,
        fps=data.fps,
    )
