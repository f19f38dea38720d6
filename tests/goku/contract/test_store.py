"""The store on a local folder and in memory, and what is peculiar to a folder."""

import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from goku.contract.store import Store, StoreError, StoreUnavailable, patiently
from goku.contract.store.local import Folder
from tests.store_promises import StorePromises


class TestLocal(StorePromises):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store(str(tmp_path / "store"))


class TestMemory(StorePromises):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = Store(f"memory://{uuid.uuid4().hex}")
        yield store
        store.delete("")


def test_partial_and_lock_files_are_never_listed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.writer("big") as stream:
        stream.write(b"x")
        assert store.list() == []
        assert store.walk() == []
    store.change("pointer", lambda _: b"1")
    store.change("pointer", lambda _: b"2")
    assert store.walk() == store.list() == ["big", "pointer"]


def test_a_folder_tells_versions_by_size_and_time_once_the_time_can_be_trusted(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    store.write("a/film", b"one")
    assert store.versions() == {"a/film": ""}  # the next write may come within the clock's step
    os.utime(tmp_path / "a/film", ns=(0, 1_700_000_000_123_456_789))
    assert store.versions() == {"a/film": "3-1700000000123456789"}
    assert store.version("a/film") == "3-1700000000123456789"
    assert store.version("a/film/none") is None


def test_only_what_can_be_read_is_walked(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "film.mp4").write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "sub" / "film.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "none")
    (tmp_path / "circle.mp4").symlink_to("circle.mp4")
    (tmp_path / "folder.mp4").symlink_to(tmp_path / "sub")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert Store(str(tmp_path)).walk() == ["link.mp4", "sub/film.mp4"]


@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=2000), cuts=st.tuples(st.integers(0, 2000), st.integers(0, 2000)))
def test_a_range_is_a_slice(data: bytes, cuts: tuple[int, int]) -> None:
    store = Store("memory://ranges")
    store.write("data", data)
    start, end = sorted(min(cut, len(data)) for cut in cuts)
    assert store.read_range("data", start, end) == data[start:end]


def test_what_the_kernel_left_out_of_a_range_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = os.preadv, list[int]()

    def some(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        asked.append(offset)
        return whole(descriptor, [*buffers[:1], *(b[:1] for b in buffers[1:2])], offset)

    monkeypatch.setattr(os, "preadv", some)
    store, buffers = Store(str(tmp_path)), [bytearray(room) for room in (3, 4, 2, 5)]
    store.write("data", b"0123456789")
    assert store.read_into("data", 0, *map(memoryview, buffers)) == 10
    assert buffers == [b"012", b"3456", b"78", b"9\0\0\0\0"]
    assert asked == [0, 4, 8, 10]


def _create_and_count(uri: str, own: str, queue: "multiprocessing.Queue[list[str]]") -> None:
    store, won = Store(uri), []
    for name in map(str, range(50)):
        if store.create(name, own.encode()):
            won.append(name)
        store.change("counter", lambda old: str(int(old or 0) + 1).encode())
    queue.put(won)


@pytest.mark.slow
def test_processes_neither_share_a_name_nor_lose_a_change(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    queue: multiprocessing.Queue[list[str]] = context.Queue()
    processes = [
        context.Process(target=_create_and_count, args=(str(tmp_path), str(number), queue))
        for number in range(3)
    ]
    for process in processes:
        process.start()
    won = sorted(name for _ in processes for name in queue.get(timeout=60))
    for process in processes:
        process.join()
    assert won == sorted(map(str, range(50)))
    assert Store(str(tmp_path)).read("counter") == b"150"


KILLED_WITH_THE_LOCK = """
import os, signal, sys
from pathlib import Path
from goku.contract.store.local import _locked
with _locked(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("pointer", b"1")
    killed = subprocess.run([sys.executable, "-c", KILLED_WITH_THE_LOCK, str(tmp_path)])
    assert killed.returncode == -9
    store.change("pointer", lambda _: b"2")
    assert store.read("pointer") == b"2"


def test_a_store_that_cannot_be_opened_or_written_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened.*driver"):
        Store("nonsense://bucket")
    with pytest.raises(StoreError, match=r"names no bucket.*s3://<bucket>"):
        Store("s3://")
    (tmp_path / "file").write_bytes(b"")
    blocked = Store(str(tmp_path / "file" / "below"))
    with pytest.raises(StoreError, match="cannot be written"):
        blocked.check_writable()
    for write in (blocked.write, blocked.create):
        with pytest.raises(StoreError, match="cannot be written"):
            write("name", b"")


def test_a_folder_is_named_by_path_or_by_uri(tmp_path: Path) -> None:
    Store(f"file://{tmp_path}/").write("a", b"1")
    assert Store(str(tmp_path)).read("a") == b"1"
    assert Store(f"{tmp_path}/").child("b").local_path("c") == tmp_path / "b/c"
    assert Store("memory://x").local_path() is None


def test_a_store_that_ignores_conditions_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an S3 server that does not know If-None-Match, or If-Match, would do."""

    def put(self: Folder, name: str, data: bytes, *_: Any) -> bool:
        self.write(name, data)
        return True

    store = Store(str(tmp_path))
    monkeypatch.setattr(Folder, "swap", put)
    with pytest.raises(StoreError, match=r"replace a version only once \(If-Match\)"):
        store.check_writable()
    monkeypatch.setattr(Folder, "create", put)
    with pytest.raises(StoreError, match=r"create a name only once \(If-None-Match: \*\)"):
        store.check_writable()
    assert store.list() == []


def test_a_store_whose_conditions_never_hold_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.write("pointer", b"1")
    monkeypatch.setattr(Folder, "swap", lambda *_: False)
    with pytest.raises(StoreError, match="conditional writes are broken"):
        store.change("pointer", lambda _: b"2")


def test_a_driver_without_compare_and_swap_is_read_from_and_refused_for_runs() -> None:
    store = Store("dir::memory://elsewhere")
    store.write("data", b"1")
    assert store.read("data") == b"1"
    with pytest.raises(StoreError, match="cannot replace a version only once"):
        store.check_writable()
    assert store.list() == ["data"]


def test_a_drivers_own_exceptions_mean_that_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class HttpError(Exception):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise HttpError("502 bad gateway")

    store = Store("memory://away")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(StoreUnavailable, match="memory://away/data: HttpError: 502"):
        store.read("data")


def test_patience_ends_with_the_time_and_waits_only_for_a_store_that_is_away() -> None:
    answers: list[Exception] = [StoreUnavailable("away")]

    def work() -> str:
        if answers:
            raise answers.pop()
        return "done"

    assert patiently(work, seconds=10) == "done"
    answers = [StoreUnavailable("still away")]
    with pytest.raises(StoreUnavailable, match="still away"):
        patiently(work, seconds=0)
    answers = [StoreError("refused")]
    with pytest.raises(StoreError, match="refused"):
        patiently(work, seconds=10)


def test_away_is_both_a_store_error_and_an_os_error() -> None:
    """What may pass is an OSError, as a full disk is; what is refused for good is not."""
    assert isinstance(StoreUnavailable("s3://b: away"), OSError)
    assert str(StoreUnavailable("s3://b: away")) == "s3://b: away"
    assert not isinstance(StoreError("no"), OSError)


def test_a_local_store_loads_no_driver() -> None:
    """The command line must answer at once: boto3 and fsspec take half a second."""
    code = "import sys; from goku.contract.store import Store; Store('.'); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"boto3", "botocore", "fsspec"} & set(out.stdout.split())
