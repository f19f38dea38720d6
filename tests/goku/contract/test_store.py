"""The store: three kinds of write, on a local folder and on an in-memory object store."""

import multiprocessing
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goku.contract.store import Store, StoreError


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store(str(tmp_path / "store"))
        return
    store = Store(f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def test_what_is_written_is_read_back_and_listed(store: Store) -> None:
    store.write("a/b/data", b"0123456789")
    store.write("a/b/data", b"9876543210")
    store.write("a/more", b"")
    assert store.read("a/b/data") == b"9876543210"
    assert store.read_range("a/b/data", 2, 5) == b"765"
    assert store.size("a/b/data") == 10
    assert store.size("a/more") == 0
    assert store.list("a") == ["b", "more"]
    assert store.child("a").walk() == ["b/data", "more"]
    with store.reader("a/b/data") as stream:
        stream.seek(8)
        assert stream.read() == b"10"


def test_what_is_not_there_is_said_so(store: Store) -> None:
    assert not store.exists("nothing")
    assert store.size("nothing") is None
    assert store.list("nothing") == []
    store.delete("nothing")
    with pytest.raises(FileNotFoundError):
        store.read("nothing")


def test_a_deleted_folder_is_gone_with_all_below(store: Store) -> None:
    store.write("run/a", b"1")
    store.write("run/b/c", b"2")
    store.write("other", b"3")
    store.delete("run")
    assert store.list() == ["other"]


def test_create_never_replaces(store: Store) -> None:
    assert store.create("once", b"first")
    assert not store.create("once", b"second")
    assert store.read("once") == b"first"


def break_off(store: Store, name: str) -> None:
    with store.writer(name) as stream:
        stream.write(b"half of the new")
        raise RuntimeError("killed")


def test_a_stream_that_breaks_off_leaves_nothing(store: Store) -> None:
    store.write("kept", b"old")
    for name in ("kept", "fresh"):
        with pytest.raises(RuntimeError, match="killed"):
            break_off(store, name)
    assert store.read("kept") == b"old"
    assert store.list() == ["kept"]


def test_streams_do_not_disturb_one_another(store: Store) -> None:
    """A row of metrics is written while a checkpoint is; one of two streams breaks off."""
    with store.writer("outer") as outer:
        outer.write(b"one ")
        with pytest.raises(RuntimeError):
            break_off(store, "broken")
        with store.writer("inner") as inner:
            inner.write(b"within")
        assert store.read("inner") == b"within"
        store.write("small", b"row")
        assert store.create("created", b"record")
        outer.write(b"two")
        assert not store.exists("outer")
    assert store.read("outer") == b"one two"
    assert store.list() == ["created", "inner", "outer", "small"]


def test_partial_files_are_never_listed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.writer("big") as stream:
        stream.write(b"x")
        assert store.list() == []
        assert store.walk() == []


@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=2000), cuts=st.tuples(st.integers(0, 2000), st.integers(0, 2000)))
def test_a_range_is_a_slice(data: bytes, cuts: tuple[int, int]) -> None:
    store = Store("memory://ranges")
    store.write("data", data)
    start, end = sorted(min(cut, len(data)) for cut in cuts)
    assert store.read_range("data", start, end) == data[start:end]


def test_of_many_threads_one_creates(tmp_path: Path) -> None:
    winners: list[int] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if Store(str(tmp_path)).create("prize", str(number).encode()):
            winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert Store(str(tmp_path)).read("prize") == str(winners[0]).encode()
    assert Store(str(tmp_path)).list() == ["prize"]


def _create_many(uri: str, own: str, queue: "multiprocessing.Queue[list[str]]") -> None:
    store = Store(uri)
    queue.put([name for name in map(str, range(50)) if store.create(name, own.encode())])


@pytest.mark.slow
def test_of_many_processes_one_creates_each(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    queue: multiprocessing.Queue[list[str]] = context.Queue()
    processes = [
        context.Process(target=_create_many, args=(str(tmp_path), str(number), queue))
        for number in range(3)
    ]
    for process in processes:
        process.start()
    won = sorted(name for _ in processes for name in queue.get(timeout=60))
    for process in processes:
        process.join()
    assert won == sorted(map(str, range(50)))


def test_a_store_that_cannot_be_opened_or_written_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened.*driver"):
        Store("nonsense://bucket")
    (tmp_path / "file").write_bytes(b"")
    blocked = Store(str(tmp_path / "file" / "below"))
    with pytest.raises(StoreError, match="cannot be written"):
        blocked.check_writable()
    with pytest.raises(StoreError, match="cannot be written"):
        blocked.write("name", b"")


def test_a_writable_store_is_left_as_it_was(store: Store) -> None:
    store.check_writable()
    assert store.list() == []
