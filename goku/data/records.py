"""What curation leaves behind and training reads: clips, and the commits that make them count.

    commits/<task key>.json     one per source, created once: its shards, its records, its rejects
    shards/<attempt>-000.tar    the clips' bytes, as mp4 and png members of a plain tar
    records/<attempt>.parquet   one row per clip, with every score

Attempts write under names of their own, so whatever no commit names is garbage of a lost attempt.
Needs no torch: curation workers import it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import BytesIO
from itertools import chain
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from goku.contract.checksum import crc32
from goku.contract.store import Store
from goku.data.damage import damaged, read_record
from goku.data.prefetch import at_once

_COMMITS = "commits"
_AGAIN = (
    "and start that curate run again (goku-platform resume, or launch --force with its --name if "
    "it is done): a source without a commit is curated anew."
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kind(StrEnum):
    """What a clip or a source holds."""

    VIDEO = "video"
    IMAGE = "image"


Keep = Callable[[str, Kind], bool]  # of a clip's id and kind


class Clip(_Record):
    """One curated clip or image. Its bytes are [offset, offset + nbytes) of its shard."""

    id: str  # from the source's content and the span: the same on every attempt
    kind: Kind
    source: str  # URI
    source_sha256: str
    start_seconds: float  # in the source; an image has 0 to 0
    end_seconds: float
    width: int
    height: int
    frames: int
    fps: float  # 0 for an image
    caption: str
    scores: dict[str, float]
    tier: str | None  # of the paper's Table 4; None reaches none
    shard: str  # name in the store of the clips
    offset: int
    nbytes: int
    crc32: int | None = None  # of its bytes; older records have none

    def made_of(self, data: bytes) -> bool:
        """Whether these are the bytes that curation wrote, as far as its record can tell."""
        return self.crc32 in (None, crc32(data))


class Reject(_Record):
    """A span that left the pipeline early: turned away by a rule, or failed as broken media."""

    stage: str
    reason: str  # a few words, the same for all that share it
    detail: str  # with the numbers
    start_seconds: float
    end_seconds: float
    failed: bool = False


class Tally(_Record):
    """Rows of one stage. What came in, and was added by splitting, went somewhere."""

    stage: str
    taken: int
    added: int = 0
    passed: int
    rejected: int = 0
    failed: int = 0

    @model_validator(mode="after")
    def _rows_are_conserved(self) -> Self:
        if self.taken + self.added != self.passed + self.rejected + self.failed:
            raise ValueError(f"stage {self.stage} lost or invented rows: {self!r}")
        return self


class Versions(NamedTuple):
    """What the store says of a source unread, as `Store.version` does."""

    media: str
    sidecar: str | None  # None: there is none


class Commit(_Record):
    """The one truth about a source: what became of it. A source without clips commits too."""

    task_key: str
    source: str
    source_sha256: str
    shards: dict[str, int] = Field(default_factory=dict)  # name -> bytes
    records: str | None = None  # name of the parquet file; None without clips
    records_crc32: int | None = None  # of that file's bytes; older commits have none
    clips: int = 0
    tallies: tuple[Tally, ...] = ()
    rejects: tuple[Reject, ...] = ()
    # what vouches for a source that is not read again; None: nothing does
    versions: Versions | None = None
    settings: str | None = None  # digest of all of the task's key but the source
    committed_at: float = Field(default_factory=time.time)  # unix seconds


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "kind", "source", "source_sha256")),
        *((name, pa.float64()) for name in ("start_seconds", "end_seconds")),
        *((name, pa.int64()) for name in ("width", "height", "frames")),
        ("fps", pa.float64()),
        ("caption", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        *((name, pa.string()) for name in ("tier", "shard")),
        *((name, pa.int64()) for name in ("offset", "nbytes", "crc32")),
    ]
)


_SLIM = set(Commit.model_fields)  # one set for all
_NO_SHARDS: dict[str, int] = {}


def write_clips(store: Store, name: str, clips: Iterable[Clip]) -> int:
    """Write one parquet file of records; its CRC-32. They count once a commit names the file."""
    rows = [clip.model_dump(mode="json") for clip in clips]
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer)
    store.write(name, buffer.getvalue())
    return crc32(buffer.getvalue())


def read_clips(store: Store, keep: Keep = lambda _id, _kind: True) -> list[Clip]:
    """The committed clips to keep, sorted by id. `store` is the folder of the clips, `<run>/clips`.

    `keep` is asked once for each, in this thread and in no order: a record takes 4 KB, and there
    may be a hundred million. Raises FileNotFoundError if committed records are gone, ConfigError
    if some are damaged.
    """
    commits = read_commits(store, slim)
    tables = at_once(lambda commit: _table(store, commit), commits)
    parts = (_kept(store, *found, keep) for found in zip(commits, tables, strict=True))
    return sorted(chain.from_iterable(parts), key=lambda clip: clip.id)


def read_media(store: Store, clip: Clip) -> bytes:
    """The clip's mp4 or png bytes."""
    return store.read_range(clip.shard, clip.offset, clip.offset + clip.nbytes)


def find_commit(store: Store, task_key: str) -> Commit | None:
    """The commit of one task, if it has been made. Raises ConfigError if it is damaged."""
    try:
        return read_record(Commit, store, _commit_name(task_key), fix=f"Delete it {_AGAIN}")
    except FileNotFoundError:
        return None


def add_commit(store: Store, commit: Commit) -> bool:
    """Make a source's outcome count. False if another attempt's commit was there first."""
    text = commit.model_dump_json(indent=1)
    return store.create(_commit_name(commit.task_key), text.encode())


def all_commits(store: Store) -> Iterator[Commit]:
    """Every commit, of earlier contents too. Raises ConfigError at a damaged one."""
    keys = [name.removesuffix(".json") for name in store.list(_COMMITS) if name.endswith(".json")]
    return filter(None, at_once(lambda key: find_commit(store, key), keys))


def read_commits(
    store: Store, keep: Callable[[Commit], Commit] = lambda commit: commit
) -> list[Commit]:
    """What to `keep` of the commits that count, sorted by source.

    A source that changed has several: the newest counts. Copies of one content under several
    names count once, under the first name. Raises ConfigError if a commit is damaged.
    """
    found = sorted(map(keep, all_commits(store)), key=lambda c: c.committed_at)
    newest = {commit.source: commit for commit in found}
    by_name = sorted(newest.values(), key=lambda c: c.source, reverse=True)
    unique = {commit.source_sha256: commit for commit in by_name}
    return sorted(unique.values(), key=lambda c: c.source)


def slim(
    commit: Commit, *, tallies: tuple[Tally, ...] = (), rejects: tuple[Reject, ...] = ()
) -> Commit:
    """What tells which commits count and where their records are, in a tenth of the memory.

    The account of what became of spans is what is given: it is 20 KB, and there may be a million.
    """
    return Commit.model_construct(
        _SLIM,
        task_key=commit.task_key,
        source=commit.source,
        source_sha256=commit.source_sha256,
        shards=_NO_SHARDS,
        records=commit.records,
        records_crc32=commit.records_crc32,
        clips=commit.clips,
        tallies=tallies,
        rejects=rejects,
        committed_at=commit.committed_at,
    )


def _table(store: Store, commit: Commit) -> pa.Table:
    if commit.records is None:
        return _SCHEMA.empty_table()
    data = store.read(commit.records)
    with _undamaged(store, commit):
        if commit.records_crc32 not in (None, crc32(data)):
            raise ValueError("another checksum")
        return pq.read_table(pa.BufferReader(data))


def _kept(store: Store, commit: Commit, table: pa.Table, keep: Keep) -> list[Clip]:
    with _undamaged(store, commit):
        named = zip(table["id"].to_pylist(), map(Kind, table["kind"].to_pylist()), strict=True)
        rows = table.filter(pa.array([keep(*each) for each in named], pa.bool_())).to_pylist()
        return [Clip.model_validate(row | {"scores": dict(row["scores"])}) for row in rows]


@contextmanager
def _undamaged(store: Store, commit: Commit) -> Iterator[None]:
    """Raises ConfigError where the block finds that a commit's records cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
        fix = f"Delete {store.uri}/{_commit_name(commit.task_key)} {_AGAIN}"
        raise damaged(store, str(commit.records), fix=fix) from None


def _commit_name(task_key: str) -> str:
    return f"{_COMMITS}/{task_key}.json"
