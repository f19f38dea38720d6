"""Records come back as written, and only committed ones count."""

import re
import weakref
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from goku.config import ConfigError
from goku.contract.checksum import crc32
from goku.contract.store import Store
from goku.data.records import (
    Clip,
    Commit,
    Kind,
    Tally,
    add_commit,
    find_commit,
    read_clips,
    read_commits,
    read_media,
    write_clips,
)
from tests.goku.data.damage import DAMAGE, Damage


def clip(name: str = "a", **over: object) -> Clip:
    values: dict[str, object] = {
        "id": name,
        "kind": Kind.VIDEO,
        "source": "memory://films/a.mp4",
        "source_sha256": "0" * 64,
        "start_seconds": 0.5,
        "end_seconds": 2.5,
        "width": 640,
        "height": 360,
        "frames": 48,
        "fps": 24.0,
        "caption": "a hare",
        "scores": {"motion": 1.25},
        "tier": None,
        "shard": "shards/x-000.tar",
        "offset": 512,
        "nbytes": 100,
    }
    return Clip.model_validate(values | over)


def commit(key: str, source: str, *, sha: str = "s", records: str | None = None, at: float = 1):
    return Commit(task_key=key, source=source, source_sha256=sha, records=records, committed_at=at)


@settings(max_examples=25, deadline=None)
@given(
    caption=st.text(st.characters(exclude_categories=["Cs"])),
    scores=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.floats(-9, 9)),
    tier=st.sampled_from([None, "480p"]),
)
def test_clips_come_back_as_written(
    caption: str, scores: dict[str, float], tier: str | None
) -> None:
    store = Store("memory://records-round-trip")
    clips = [clip("b", caption=caption, scores=scores, tier=tier), clip("a", kind=Kind.IMAGE)]
    write_clips(store, "records/x.parquet", clips)
    add_commit(store, commit("k", "a.mp4", records="records/x.parquet"))
    assert read_clips(store) == [clips[1], clips[0]]


def test_uncommitted_records_do_not_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_clips(store, "records/lost.parquet", [clip()])
    assert read_clips(store) == []


def test_one_of_two_attempts_commits(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first, second = commit("k", "a", records="1"), commit("k", "a", records="2")
    assert add_commit(store, first)
    assert not add_commit(store, second)
    assert find_commit(store, "k") == first
    assert find_commit(store, "other") is None


def test_the_newest_commit_of_a_source_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for key, at in (("old", 1.0), ("new", 2.0)):
        add_commit(store, commit(key, "a.mp4", sha=key, at=at))
    assert [found.task_key for found in read_commits(store)] == ["new"]


def test_copies_count_once_under_the_first_name(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for name in ("b.mp4", "a.mp4", "c.mp4"):
        add_commit(store, commit(name[0], name, sha="same"))
    assert [found.source for found in read_commits(store)] == ["a.mp4"]


def test_commits_are_trimmed_as_they_are_read(tmp_path: Path) -> None:
    """A million of them, 20 KB each, are not held at once."""
    store, held = Store(str(tmp_path)), set[int]()
    for number in range(200):
        add_commit(store, commit(f"{number:03d}", f"{number:03d}.mp4", sha=str(number)))

    def trim(whole: Commit) -> Commit:
        weakref.finalize(whole, held.discard, id(whole))
        held.add(id(whole))
        assert len(held) < 100
        return whole.model_copy(update={"tallies": ()})

    assert [found.source for found in read_commits(store, trim)] == [
        f"{number:03d}.mp4" for number in range(200)
    ]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_commit_is_named(tmp_path: Path, damage: Damage) -> None:
    store = Store(str(tmp_path))
    for key in ("j", "k"):
        add_commit(store, commit(key, f"{key}.mp4"))
    store.write("commits/k.json", damage(store.read("commits/k.json")))
    named = re.escape(f"{store.uri}/commits/k.json: its bytes have changed")
    for read in (lambda: read_clips(store), lambda: find_commit(store, "k")):
        with pytest.raises(ConfigError, match=named + ".*Delete it and start that curate run"):
            read()
    store.delete("commits/k.json")  # as the message says
    assert find_commit(store, "k") is None
    assert [found.task_key for found in read_commits(store)] == ["j"]


def test_damaged_records_are_named_with_their_commit(tmp_path: Path) -> None:
    store, name = Store(str(tmp_path)), "records/x.parquet"
    write_clips(store, name, [clip()])
    add_commit(store, commit("k", "a.mp4", records=name))
    whole, sink = store.read(name), pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["a"]}), sink)
    footer = len(whole) - 200
    for data in (
        b"\xff" * len(whole),
        whole[: len(whole) // 2],
        b"",
        whole[:4] + b"\xff" * (footer - 4) + whole[footer:],
        whole[:footer] + b"\xff" * (len(whole) - 8 - footer) + whole[-8:],
        sink.getvalue().to_pybytes(),  # of another schema
    ):
        store.write(name, data)
        named = re.escape(f"{store.uri}/{name}: its bytes have changed")
        with pytest.raises(ConfigError, match=rf"{named}.*Delete .*/commits/k\.json and start"):
            read_clips(store)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_flipped_bit_of_records_is_found(data: st.DataObject) -> None:
    store, name = Store("memory://records-flipped"), "records/x.parquet"
    checksum = write_clips(store, name, [clip()])
    store.delete("commits")
    whole = commit("k", "a.mp4", records=name)
    add_commit(store, whole.model_copy(update={"records_crc32": checksum}))
    assert read_clips(store) == [clip()]
    flipped = bytearray(store.read(name))
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    store.write(name, bytes(flipped))
    with pytest.raises(ConfigError, match=r"x\.parquet: its bytes have changed"):
        read_clips(store)


def test_a_clip_tells_its_own_bytes_from_others() -> None:
    written = clip(crc32=crc32(b"media"))
    assert written.made_of(b"media")
    assert not any(written.made_of(other) for other in (b"medib", b"medi", b"media ", b""))
    assert clip().made_of(b"anything")  # recorded before there were checksums


def test_media_is_a_range_of_its_shard(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("shards/x.tar", b"-----media=====")
    assert read_media(store, clip(shard="shards/x.tar", offset=5, nbytes=5)) == b"media"


def test_a_tally_that_loses_a_row_cannot_be_written() -> None:
    Tally(stage="shots", taken=1, added=2, passed=2, rejected=1)
    with pytest.raises(ValidationError, match="lost or invented rows"):
        Tally(stage="shots", taken=3, passed=2)
