"""Encoded clips on disk: what an encode run leaves and later training runs read.

    meta.json                   the encoders' digests, the geometry, the widths
    empty.safetensors           the embedding of the empty caption
    shards/<unique>.safetensors latent/<clip>, text/<clip> and, for encoders that are not causal,
                                first/<clip>
    commits/<key>.json          created once a shard is there: its clips, with shapes and lengths
    index.jsonl.gz              all commits, one a line: what training reads instead of them
    complete.json               all clips of the run are committed, and in the index

Whatever no commit names is garbage of a lost attempt. Packing reads the index only, never a shard.
"""

import gzip
import hashlib
import time
import uuid
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from goku.config.errors import ConfigError
from goku.contract.store import Store
from goku.data.catalog import Form
from goku.data.damage import damaged, read_record
from goku.data.encoding import Sample
from goku.data.marks import Marks, mark
from goku.data.prefetch import at_once
from goku.data.records import Kind
from goku.data.shards import Shard, Span, crc32_of, write_shard

FORMAT = 1
_META, _COMPLETE, _EMPTY, _COMMITS = "meta.json", "complete.json", "empty.safetensors", "commits"
_INDEX = "index.jsonl.gz"
_TEXT = "text"
# Half the bytes of float32. Latents are about unit normal and get noise added: float16 keeps 11
# bits of them. Embeddings may be large, and bfloat16 is what the transformer reads them in.
_LATENT_DTYPE, _TEXT_DTYPE = torch.float16, torch.bfloat16
_AGAIN = (
    f"Delete it and, if there is one, {_COMPLETE} beside {_COMMITS}; then start that encode run "
    "again (goku-platform resume, or launch --force with its --name if it is done): clips that no "
    "commit names are encoded anew."
)
_INDEX_AGAIN = (
    "Start that encode run again (goku-platform launch --force with its --name): with nothing left "
    "to encode it only makes this file anew."
)
_SHARD_BYTES = 128 << 20  # of float32 samples in memory; half of it on disk
_STALE_SECONDS = 3600.0  # of a shard that a killed rank began; a living one has written it by then
_SHARD_SECONDS = 60.0  # a kill loses no more work than this


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Meta(_Record):
    """What made the cache. Two caches with equal meta hold the same latents of the same clip."""

    format: int = FORMAT
    vae: str  # digest
    text: str  # digest
    causal: bool
    latent_channels: int
    text_width: int
    height: int
    width: int
    frames: int
    fps: float


class CachedClip(_Record):
    """One encoded clip: all that packing needs to know."""

    id: str
    kind: Kind
    shape: tuple[int, int, int]  # latent frames, height, width
    text_length: int
    # Where its tensors begin in the shard, and the CRC-32 of their bytes, so that training reads a
    # clip by one request; None in caches that were begun before.
    start: int | None = Field(None, ge=0, lt=1 << 63)
    crc32: int | None = Field(None, ge=0, lt=1 << 32)


class Commit(_Record):
    """A shard that counts, and the clips that could not be encoded, each with the reason."""

    shard: str | None  # None if it would be empty
    clips: tuple[CachedClip, ...]
    rejects: dict[str, str] = Field(default_factory=dict)


class Encoded(NamedTuple):
    """A clip on its way into the cache."""

    id: str
    kind: Kind
    sample: Sample


class Done(NamedTuple):
    """The clips that need no more work."""

    encoded: Marks
    rejected: Marks

    def __len__(self) -> int:
        return len(self.encoded) + len(self.rejected)

    @property
    def both(self) -> Marks:
        """All of them."""
        return self.encoded | self.rejected


class LatentCache:
    """A folder of encoded clips."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # --- writing

    def begin(self, meta: Meta, empty_LY: Tensor) -> None:
        """Create the cache, or go on with one that the same encoders began.

        Raises ConfigError if other encoders or another geometry began it.
        """
        self.store.child("shards").sweep(older_seconds=_STALE_SECONDS)
        if not self.store.exists(_META):
            write_shard(self.store, _EMPTY, {_TEXT: empty_LY.to(_TEXT_DTYPE)})
            self.store.create(_META, meta.model_dump_json(indent=2).encode())
        found = self.meta()
        if found != meta:
            raise ConfigError(
                f"latents in {self.store.uri}",
                f"they were begun with {_difference(found, meta)}",
                "The weights have changed since: encode under another run name.",
            )

    def commit(self, samples: Sequence[Encoded], rejects: Mapping[str, str]) -> None:
        """Write samples as one shard and make it count, with clips that could not be encoded."""
        shard = f"shards/{uuid.uuid4().hex}.safetensors" if samples else None
        clips: tuple[CachedClip, ...] = ()
        if shard:
            causal = self.meta().causal
            parts = [_tensors(encoded, causal) for encoded in samples]
            starts = write_shard(self.store, shard, {k: part[k] for part in parts for k in part})
            clips = tuple(map(_describe, samples, parts, repeat(starts)))
        record = Commit(shard=shard, clips=clips, rejects=dict(rejects))
        ours = self.store.create(_commit_name(record), record.model_dump_json().encode())
        if shard and not ours:
            self.store.delete(shard)  # an attempt that was thought lost was faster

    def complete(self) -> None:
        """Declare that nothing is missing: training may begin."""
        with self.store.writer(_INDEX) as sink, gzip.GzipFile("", "wb", 6, sink, 0) as lines:
            for commit in self.commits():
                lines.write(commit.model_dump_json().encode() + b"\n")
        self.store.write(_COMPLETE, b"{}\n")

    # --- reading

    def meta(self) -> Meta:
        """Raises FileNotFoundError if there is no cache, ConfigError if the file is damaged."""
        fix = "Put it back from a copy, or encode under another run name."
        return read_record(Meta, self.store, _META, fix=fix)

    def is_complete(self) -> bool:
        return self.store.exists(_COMPLETE)

    def commits(self) -> Iterator[Commit]:
        """What counts, in no order that means anything. Raises ConfigError for a damaged one.

        One by one: a clip of a commit takes 0.6 KB, and there may be a hundred million.
        """
        return at_once(self._commit, self.store.list(_COMMITS))

    def done(self) -> Done:
        """The clips that commits name. Raises ConfigError for a damaged one."""
        encoded, rejected = array("Q"), array("Q")
        for commit in self.commits():
            encoded.extend(mark(clip.id) for clip in commit.clips)
            rejected.extend(map(mark, commit.rejects))
        return Done(Marks.of(encoded), Marks.of(rejected))

    def index(self) -> Iterator[Commit]:
        """The same once the cache is complete, from one file: all ranks of a run begin with it, and
        commits may be a million.

        Raises ConfigError if it is damaged, or not there.
        """
        try:
            with self.store.reader(_INDEX) as source, gzip.open(source) as lines:
                for line in lines:
                    yield Commit.model_validate_json(line)
        except (FileNotFoundError, ValidationError, EOFError, gzip.BadGzipFile, zlib.error):
            raise damaged(self.store, _INDEX, fix=_INDEX_AGAIN) from None

    def _commit(self, name: str) -> Commit:
        return read_record(Commit, self.store, f"{_COMMITS}/{name}", fix=_AGAIN)

    def empty(self) -> Tensor:
        """The embedding text_LY of the empty caption, bfloat16."""
        return Shard(self.store, _EMPTY).read(_TEXT)


class CacheWriter:
    """Gathers samples into shards of a cache."""

    def __init__(self, cache: LatentCache) -> None:
        self._cache = cache
        self.encoded = self.rejected = 0  # committed so far
        self._begin_shard()

    @property
    def added(self) -> int:
        """How many clips it was given, committed or not."""
        return self.encoded + self.rejected + len(self._samples) + len(self._rejects)

    def add(self, id: str, kind: Kind, sample: Sample) -> None:
        self._samples.append(Encoded(id, kind, sample))
        self._nbytes += sum(tensor.nbytes for tensor in sample)

    def reject(self, id: str, reason: str) -> None:
        self._rejects[id] = reason

    def due(self) -> bool:
        """Whether enough has gathered, or enough time has gone by, for a shard."""
        return self._nbytes >= _SHARD_BYTES or time.monotonic() - self._began >= _SHARD_SECONDS

    def flush(self) -> None:
        """Commit what waits."""
        if self._samples or self._rejects:
            self._cache.commit(self._samples, self._rejects)
            self.encoded += len(self._samples)
            self.rejected += len(self._rejects)
        self._begin_shard()

    def _begin_shard(self) -> None:
        self._samples: list[Encoded] = []
        self._rejects: dict[str, str] = {}
        self._nbytes, self._began = 0, time.monotonic()


def read_sample(
    store: Store, span: Span, clip: Form, meta: Meta, *, text_LY: Tensor | None = None
) -> Sample:
    """A clip by one request; `text_LY` replaces its caption. Latents float32, captions bfloat16."""
    frames, height, width = clip.shape
    channels, length = meta.latent_channels, clip.text_length or 0
    forms = [
        ((channels, frames, height, width), _LATENT_DTYPE),
        ((length, meta.text_width), _TEXT_DTYPE),
        *([] if meta.causal else [((channels, height, width), _LATENT_DTYPE)]),
    ]
    latent_CTHW, caption_LY, *first = span.read(store, forms)
    latent_CTHW = latent_CTHW.float()
    first_CHW = first[0].float() if first else latent_CTHW[:, 0]
    return Sample(latent_CTHW, caption_LY if text_LY is None else text_LY, first_CHW)


def read_named(shard: Shard, id: str, *, causal: bool, text_LY: Tensor | None = None) -> Sample:
    """The same by the shard's header: two requests, and two more for the header."""
    latent_CTHW = shard.read(f"latent/{id}").float()
    first_CHW = latent_CTHW[:, 0] if causal else shard.read(f"first/{id}").float()
    if text_LY is None:
        text_LY = shard.read(f"{_TEXT}/{id}")
    return Sample(latent_CTHW, text_LY, first_CHW)


def _describe(
    encoded: Encoded, tensors: Mapping[str, Tensor], starts: Mapping[str, int]
) -> CachedClip:
    id, kind, sample = encoded
    _, frames, height, width = sample.latent_CTHW.shape
    return CachedClip(
        id=id,
        kind=kind,
        shape=(frames, height, width),
        text_length=len(sample.text_LY),
        start=starts[next(iter(tensors))],
        crc32=crc32_of(tensors.values()),
    )


def _tensors(encoded: Encoded, causal: bool) -> dict[str, Tensor]:
    id, _, sample = encoded
    tensors = {
        f"latent/{id}": _half(sample.latent_CTHW, id),
        f"{_TEXT}/{id}": sample.text_LY.to(_TEXT_DTYPE),
    }
    return tensors if causal else tensors | {f"first/{id}": _half(sample.first_CHW, id)}


def _half(tensor: Tensor, id: str) -> Tensor:
    half = tensor.to(_LATENT_DTYPE)
    if not half.isfinite().all():
        raise ConfigError(
            f"clip {id}",
            f"its latents reach {tensor.abs().max():g}, which float16 cannot hold",
            "The autoencoder does not suit the clips: check vae.kind and vae.weights.",
        )
    return half


def _commit_name(record: Commit) -> str:
    """From the clips, so that two attempts at the same clips meet."""
    ids = sorted([clip.id for clip in record.clips] + list(record.rejects))
    return f"{_COMMITS}/{hashlib.sha256(chr(10).join(ids).encode()).hexdigest()[:16]}.json"


def _difference(found: Meta, wanted: Meta) -> str:
    old, new = found.model_dump(), wanted.model_dump()
    return ", ".join(f"{key} {old[key]} (now {new[key]})" for key in old if old[key] != new[key])
