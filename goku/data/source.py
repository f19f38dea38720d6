"""Where samples come from: encoded ones from a cache, or clips encoded as they are needed.

A source knows the shape of every sample beforehand, so that packing never waits for one.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Protocol

import numpy as np

from goku.config.data import DataConfig
from goku.config.errors import ConfigError
from goku.contract.store import Store
from goku.data import buckets
from goku.data.cache import CachedClip, LatentCache, Meta, read_named, read_sample
from goku.data.catalog import Catalog, Entry, Indices
from goku.data.encoding import ClipEncoder, Sample, Text, Vae, share
from goku.data.shards import Shard, Span

# Shards of older caches whose headers are kept: 0.1 MB each, or 1 KB a clip. A rank meets all
# shards of its data in time, and of 36 million clips the headers would take 40 GB of every rank.
_HEADERS = 1 << 13
_UNKNOWN = -1  # the start of a clip that only the header tells


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
        self.entries, self._places = _placed(cached)
        self._store, self._meta, self._empty_LY = cached.store, meta, cached.empty()
        self._shard = _opened(cached.store)

    def __getstate__(self) -> dict[str, Any]:
        """All but the open shards, for another process."""
        return {name: value for name, value in vars(self).items() if name != "_shard"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._shard = _opened(self._store)

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int, *, caption: bool) -> Sample:
        text_LY = None if caption else self._empty_LY
        entry, span = self.entries[index], self._places[index]
        if span.start != _UNKNOWN:
            return read_sample(self._store, span, entry.form, self._meta, text_LY=text_LY)
        shard = self._shard(span.shard)
        return read_named(shard, entry.id, causal=self._meta.causal, text_LY=text_LY)


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


def _opened(store: Store) -> Callable[[str], Shard]:
    """Shards by name; the last ones stay open."""
    return lru_cache(_HEADERS)(partial(Shard, store))


class _Places:
    """Where the samples of a cache lie, in columns: 16 bytes for each."""

    def __init__(self) -> None:
        self._shards: list[str] = []
        self._shard_N, self._start_N, self._crc32_N = array("i"), array("q"), array("I")

    def add(self, shard: str, clips: Sequence[CachedClip]) -> None:
        """The clips of one more shard."""
        self._shard_N.extend(repeat(len(self._shards), len(clips)))
        self._start_N.extend(_UNKNOWN if clip.start is None else clip.start for clip in clips)
        self._crc32_N.extend(clip.crc32 or 0 for clip in clips)
        self._shards.append(shard)

    def choose(self, index_N: Indices) -> None:
        """Keep these of all that were added, in this order."""
        self._shard_N = _chosen(self._shard_N, index_N)
        self._start_N = _chosen(self._start_N, index_N)
        self._crc32_N = _chosen(self._crc32_N, index_N)

    def __getitem__(self, index: int) -> Span:
        shard = self._shards[self._shard_N[index]]
        return Span(shard, self._start_N[index], self._crc32_N[index])


def _chosen(column: "array[int]", index_N: Indices) -> "array[int]":
    return array(column.typecode, np.frombuffer(column, column.typecode)[index_N].tobytes())


def _placed(cached: LatentCache) -> tuple[Catalog, _Places]:
    """The entries of a cache, and where each lies."""
    places = _Places()

    def parts() -> Iterator[list[Entry]]:
        for commit in cached.index():
            if commit.shard:
                places.add(commit.shard, commit.clips)
                yield [Entry(c.id, c.kind, c.shape, c.text_length) for c in commit.clips]

    entries = Catalog.of(parts())
    chosen = entries.distinct()
    places.choose(chosen)
    return entries.take(chosen), places


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
