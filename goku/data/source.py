"""Where samples come from: encoded ones from a cache, or clips encoded as they are needed.

A source knows the shape of every sample beforehand, so that packing never waits for one.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from goku.config.data import DataConfig
from goku.config.errors import ConfigError
from goku.contract.store import Store
from goku.data import buckets
from goku.data.cache import LatentCache, Meta, read_sample
from goku.data.catalog import Catalog, Entry
from goku.data.encoding import ClipEncoder, Sample, Text, Vae, share
from goku.data.shards import Shard

# Shards whose headers are kept: 0.1 MB each, or 1 KB a clip. A rank meets all shards of its data in
# time, and of 36 million clips the headers would take 40 GB of every rank.
_HEADERS = 1 << 13


class Source(Protocol):
    """Samples by index."""

    @property
    def entries(self) -> Catalog:
        """All samples, sorted by id."""
        ...

    def __len__(self) -> int: ...

    def load(self, index: int, *, caption: bool) -> Sample:
        """One sample on the CPU; without `caption` it has the empty one. Any thread.

        Latents are float32, and captions of one dtype, the empty one among them.
        """
        ...


class CachedSource:
    """Samples that an encode run has left in a folder, `<run>/latents`."""

    def __init__(self, uri: str, *, latent_channels: int, text_width: int) -> None:
        """Reads the index, no sample.

        Raises ConfigError if nothing, or not everything, is encoded there, or if latents or
        embeddings do not fit the model.
        """
        cached = LatentCache(Store(uri))
        meta = _complete_meta(cached)
        _check_width(uri, "latent_channels", meta.latent_channels, latent_channels)
        _check_width(uri, "text_width", meta.text_width, text_width)
        self.entries, self._shards, self._shard_N = _placed(cached)
        self._shard = lru_cache(_HEADERS)(lambda name: Shard(cached.store, name))
        self._causal = meta.causal
        self._empty_LY = cached.empty()

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int, *, caption: bool) -> Sample:
        return read_sample(
            self._shard(self._shards[self._shard_N[index]]),
            self.entries[index].id,
            causal=self._causal,
            text_LY=None if caption else self._empty_LY,
        )


class OnlineSource:
    """Curated clips of a folder, `<run>/clips`, decoded and encoded one by one.

    For trials: every rank holds every record, 4 KB each. Encode what is more than a million clips.
    """

    def __init__(self, uri: str, *, vae: Vae, text: Text, config: DataConfig) -> None:
        """Reads the records, no clip. Raises ConfigError if there are none."""
        store = Store(uri)
        self._clips = share(store, config).clips
        self._encoder = ClipEncoder(store, vae=vae, text=text, config=config)
        entries = [
            Entry(clip.id, clip.kind, buckets.size(clip, config).latent, None)
            for clip in self._clips
        ]
        self.entries = Catalog.of([entries])

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int, *, caption: bool) -> Sample:
        return self._encoder.sample(self._clips[index], caption=caption)


def _placed(cached: LatentCache) -> tuple[Catalog, list[str], NDArray[np.int32]]:
    """The entries of a cache, its shards, and the number of each entry's."""
    shards: list[str] = []
    sizes: list[int] = []

    def parts() -> Iterator[list[Entry]]:
        for commit in cached.index():
            if commit.shard:
                shards.append(commit.shard)
                sizes.append(len(commit.clips))
                yield [Entry(c.id, c.kind, c.shape, c.text_length) for c in commit.clips]

    entries = Catalog.of(parts())
    chosen = entries.distinct()
    shard_N = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
    return entries.take(chosen), shards, shard_N[chosen]


def _complete_meta(cached: LatentCache) -> Meta:
    place = f"data.latents in {cached.store.uri}"
    try:
        meta = cached.meta()
    except FileNotFoundError:
        raise ConfigError(
            place,
            "no encoded clips lie there",
            "Launch encode first, and name that run in data.latents.",
        ) from None
    if not cached.is_complete():
        done = sum(len(commit.clips) for commit in cached.commits())
        raise ConfigError(
            place,
            f"encoding has not ended, {done} clips are done so far",
            "Wait for the encode run, or resume it.",
        )
    return meta


def _check_width(uri: str, key: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ConfigError(
            f"data.latents in {uri}",
            f"they have {key} {found}, the model wants {wanted}",
            f"Set model.{key}={found}, or encode with the model's own encoders.",
        )
