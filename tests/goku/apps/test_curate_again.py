"""Run again: no source is opened that the store says is as it was; any other is looked at."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO

import pytest

from goku.apps import curate as app
from goku.apps.entry import Context
from goku.contract.exits import Cause
from goku.contract.rundir import CLIPS
from goku.contract.store import Store
from goku.curation import shards
from goku.curation.footage import media
from goku.curation.pipeline import Curator
from goku.data.records import read_clips, read_commits
from tests.footage import settings, write_image
from tests.goku.apps.test_curate import Inline, launched

_hours = count(1)


def old(path: Path) -> None:
    """A time of change of its own, hours ago, as footage has."""
    os.utime(path, (0, time.time() - 3600 * next(_hours)))


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    old(path)


def padded(path: Path, *, seed: int, size: int = 1 << 16) -> bytes:
    """A png with other pixels for each seed and always the same size; decoders skip the end."""
    return write_image(path, seed=seed).read_bytes().ljust(size, b"\0")


class Runs:
    """Runs of the app in this process, and which sources they opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, self._names = Store.reader, list[str]()

        def counted(store: Store, name: str) -> AbstractContextManager[BinaryIO]:
            self._names.append(name)
            return reader(store, name)

        monkeypatch.setattr(app, "executor", lambda kind, workers: Inline())
        monkeypatch.setattr(Store, "reader", counted)

    def __call__(self, context: Context) -> list[str]:
        """Run to the end; the names that were opened meanwhile."""
        self._names.clear()
        assert app.curate(context) is Cause.DONE
        return sorted(self._names)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """Two pictures, the first with a caption."""
    for seed, name in enumerate(("a.png", "sub/b.png")):
        path = tmp_path / "footage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rewrite(path, padded(tmp_path / "scratch.png", seed=seed))
    rewrite(tmp_path / "footage" / "a.txt", b"a hare")
    return tmp_path / "footage"


def asking(context: Context, **over: object) -> Context:
    """The same run with other settings of curation."""
    config = context.config.model_copy(update={"curation": settings(**over)})
    return context._replace(config=config)


def clips(context: Context) -> Store:
    return context.run.store.child(CLIPS)


def captions(context: Context) -> list[str]:
    return [clip.caption for clip in read_clips(clips(context))]


def test_a_source_that_is_as_it_was_is_not_opened(
    tmp_path: Path, footage: Path, opened: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    context = launched(tmp_path, footage)
    assert opened(context) == ["a.png", "sub/b.png"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    capsys.readouterr()
    assert opened(context) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "1/2  a.png: 1 kept (done before)",
        "2/2  sub/b.png: 1 kept (done before)",
    ]
    assert lines[-1] == "2 clips of 2 sources"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before


def test_who_does_the_work_does_not_matter(tmp_path: Path, footage: Path, opened: Runs) -> None:
    context = launched(tmp_path, footage)
    opened(context)
    assert opened(asking(context, executor="ray", workers=7)) == []


def test_only_what_is_new_or_written_again_is_opened(
    tmp_path: Path, footage: Path, opened: Runs
) -> None:
    context = launched(tmp_path, footage)
    opened(context)
    size = (footage / "a.png").stat().st_size
    rewrite(footage / "a.png", padded(tmp_path / "scratch.png", seed=7))
    rewrite(footage / "c.png", padded(tmp_path / "scratch.png", seed=8))
    assert (footage / "a.png").stat().st_size == size
    assert opened(context) == ["a.png", "c.png"]
    assert len(read_clips(clips(context))) == 3
    assert len(clips(context).list("commits")) == 4
    assert opened(context) == []


def test_a_file_that_was_only_touched_is_read_and_not_curated(
    tmp_path: Path, footage: Path, opened: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    context = launched(tmp_path, footage)
    opened(context)
    old(footage / "a.png")
    assert opened(context) == ["a.png"]
    assert "a.png: 1 kept (done before)" in capsys.readouterr().out
    assert len(clips(context).list("commits")) == 2


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", b"a bear", ["a bear", "b"]),
        ("a.txt", None, ["a", "b"]),
        ("sub/b.txt", b"a cat", ["a cat", "a hare"]),
    ],
    ids=["changed", "removed", "added"],
)
def test_a_source_whose_sidecar_is_another_is_opened(
    tmp_path: Path,
    footage: Path,
    opened: Runs,
    name: str,
    text: bytes | None,
    expected: list[str],
) -> None:
    context = launched(tmp_path, footage)
    opened(context)
    if text is None:
        (footage / name).unlink()
    else:
        rewrite(footage / name, text)
    assert opened(context) == [name.replace(".txt", ".png")]
    assert sorted(captions(context)) == expected
    assert opened(context) == []


def test_other_settings_open_all_and_only_the_newest_word_counts(
    tmp_path: Path, footage: Path, opened: Runs
) -> None:
    context = launched(tmp_path, footage)
    stricter = asking(context, min_image_side_pixels=100)
    opened(context)
    assert opened(stricter) == ["a.png", "sub/b.png"]
    assert captions(stricter) == []
    assert opened(stricter) == []
    assert opened(context) == ["a.png", "sub/b.png"]


def test_a_new_version_of_a_stage_opens_all(
    tmp_path: Path, footage: Path, opened: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = launched(tmp_path, footage)
    opened(context)
    monkeypatch.setattr(shards, "VERSION", shards.VERSION + 1)
    assert opened(context) == ["a.png", "sub/b.png"]


def test_a_commit_of_an_earlier_version_is_read_and_does_not_vouch(
    tmp_path: Path, footage: Path, opened: Runs
) -> None:
    context = launched(tmp_path, footage)
    opened(context)
    for name in clips(context).list("commits"):
        record = json.loads(clips(context).read(f"commits/{name}"))
        del record["versions"], record["settings"]
        clips(context).write(f"commits/{name}", json.dumps(record).encode())
    assert opened(context) == ["a.png", "sub/b.png"]
    assert len(clips(context).list("commits")) == 2
    assert len(read_clips(clips(context))) == 2


@pytest.mark.parametrize("name", ["a.png", "a.txt"])
def test_what_changes_while_it_is_read_does_not_vouch(
    tmp_path: Path, footage: Path, opened: Runs, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = padded(tmp_path / "scratch.png", seed=9) if name == "a.png" else b"a bear"
    context, reader, left = launched(tmp_path, footage), Store.reader, [name]

    @contextmanager
    def overtaken(store: Store, of: str) -> Iterator[BinaryIO]:
        with reader(store, of) as stream:
            yield stream
        if of == "a.png" and left:
            rewrite(footage / left.pop(), other)

    monkeypatch.setattr(Store, "reader", overtaken)
    opened(context)
    assert [bool(commit.versions) for commit in read_commits(clips(context))] == [False, True]
    assert opened(context) == ["a.png"]


def test_what_changes_between_the_listing_and_its_turn_vouches_for_what_was_read(
    tmp_path: Path, footage: Path
) -> None:
    source, store = Store(str(footage)), Store(str(tmp_path / "clips"))
    curator, found = Curator(source.uri, store.uri, settings()), media(source)
    rewrite(footage / "a.png", padded(tmp_path / "scratch.png", seed=9))
    curator("a.png")
    assert [report for report in curator.done_before(found) if report] == []
    reports = [report for report in curator.done_before(media(source)) if report]
    assert [(report.name, report.skipped) for report in reports] == [("a.png", True)]


def test_a_store_that_cannot_tell_versions_is_read_again(tmp_path: Path, opened: Runs) -> None:
    store = Store(f"memory://footage-{tmp_path.name}")
    store.write("a.png", padded(tmp_path / "scratch.png", seed=1))
    context = launched(tmp_path, store.uri)
    assert opened(context) == opened(context) == ["a.png"]
    assert len(read_clips(clips(context))) == 1
    store.delete("")


def opens_only_what_changed(store: Store, tmp_path: Path, opened: Runs) -> None:
    """An object store's tags, for which no time needs to pass."""
    for seed, name in enumerate(("a.png", "sub/b.png")):
        store.write(name, padded(tmp_path / "scratch.png", seed=seed))
    store.write("a.txt", b"a hare")
    context = launched(tmp_path, store.uri)
    assert opened(context) == ["a.png", "sub/b.png"]
    assert opened(context) == []
    store.write("a.txt", b"a bear")
    assert opened(context) == ["a.png"]
    store.write("sub/b.png", padded(tmp_path / "scratch.png", seed=7))
    assert opened(context) == ["sub/b.png"]
    store.delete("a.txt")
    assert opened(context) == ["a.png"]
    assert opened(context) == []
    assert captions(context) == ["a", "b"]
