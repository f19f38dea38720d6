"""What a store promises, as tests for every backend: each test class gives the fixture `store`.

The fast half runs with all unit tests on a local folder and in memory; tests/cluster/test_stores.py
runs the whole against real S3 servers.
"""

import threading
from collections.abc import Callable

import pytest

from goku.contract.store import Store

WRITERS = 8


def at_once(work: Callable[[int], None]) -> None:
    """Run `work(number)` in eight threads that begin together; their errors are raised here."""
    barrier, errors = threading.Barrier(WRITERS), list[BaseException]()

    def run(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def break_off(store: Store, name: str, data: bytes = b"half of the new") -> None:
    """Begin to write, and fail."""
    with store.writer(name) as stream:
        stream.write(data)
        raise RuntimeError("killed")


class StorePromises:
    """Reads, the four kinds of write, names, and what is said of what is not there."""

    def test_what_is_written_is_read_back_and_listed(self, store: Store) -> None:
        store.write("a/b/data", b"0123456789")
        store.write("a/b/data", b"9876543210")
        store.write("a/more", b"")
        assert store.read("a/b/data") == b"9876543210"
        assert store.read("a/more") == b""
        assert store.size("a/b/data") == 10
        assert store.size("a/more") == 0
        assert store.list() == ["a"]
        assert store.list("a") == ["b", "more"]
        assert store.child("a").walk() == ["b/data", "more"]
        assert [store.exists(name) for name in ("a", "a/b", "a/b/data", "a/b/dat")] == [
            True,
            True,
            True,
            False,
        ]

    @pytest.mark.parametrize(
        ("start", "end", "found"),
        [(2, 5, b"234"), (0, 10, b"0123456789"), (8, 99, b"89"), (3, 3, b""), (10, 12, b"")],
    )
    def test_a_range_is_a_slice(self, store: Store, start: int, end: int, found: bytes) -> None:
        store.write("data", b"0123456789")
        assert store.read_range("data", start, end) == found

    @pytest.mark.parametrize(
        ("start", "room", "found"),
        [(2, 3, b"234"), (0, 10, b"0123456789"), (8, 5, b"89"), (10, 2, b""), (3, 0, b"")],
    )
    def test_a_range_is_read_into_memory(
        self, store: Store, start: int, room: int, found: bytes
    ) -> None:
        store.write("data", b"0123456789")
        buffer = bytearray(room)
        assert store.read_into("data", start, memoryview(buffer)) == len(found)
        assert bytes(buffer) == found.ljust(room, b"\0")
        with pytest.raises(FileNotFoundError):
            store.read_into("other", 0, memoryview(bytearray(1)))

    @pytest.mark.parametrize(
        ("start", "rooms", "found"),
        [
            (1, (2, 0, 3, 1), (b"12", b"", b"345", b"6")),
            (0, (0, 10, 0), (b"", b"0123456789", b"")),
            (7, (1, 4, 2), (b"7", b"89", b"")),
            (6, (4, 3), (b"6789", b"")),
            (10, (1, 1), (b"", b"")),
            (4, (0, 0), (b"", b"")),
            (4, (), ()),
        ],
    )
    def test_a_range_is_read_into_several_buffers(
        self, store: Store, start: int, rooms: tuple[int, ...], found: tuple[bytes, ...]
    ) -> None:
        store.write("data", b"0123456789")
        buffers = [bytearray(room) for room in rooms]
        assert store.read_into("data", start, *map(memoryview, buffers)) == sum(map(len, found))
        for buffer, part in zip(buffers, found, strict=True):
            assert bytes(buffer) == part.ljust(len(buffer), b"\0")

    def test_a_range_is_read_into_any_number_of_buffers(self, store: Store) -> None:
        """More than the kernel fills at once, between others' bytes that stay as they are."""
        data = bytes(range(1, 256)) * 10
        store.write("data", data)
        memory = bytearray(2 * len(data))
        buffers = [memoryview(memory)[at : at + 1] for at in range(0, len(memory), 2)]
        assert store.read_into("data", 0, *buffers) == len(data)
        assert memory[::2] == data
        assert not any(memory[1::2])

    def test_sizes_are_of_the_files_directly_below(self, store: Store) -> None:
        assert store.child("a").sizes() == {}
        for name, data in {"a/one": b"1", "a/none": b"", "a/b/two": b"22", "ab": b"333"}.items():
            store.write(name, data)
        assert store.child("a").sizes() == {"one": 1, "none": 0}
        store.write("a/one", b"4444")
        assert store.child("a").sizes()["one"] == 4

    def test_a_version_is_listed_as_it_is_told_and_is_of_the_bytes(self, store: Store) -> None:
        """A store that cannot tell versions says so: its word is empty."""
        assert store.versions() == {}
        assert store.version("nothing") is None
        for name in ("a/b/data", "a/more", "other"):
            store.write(name, b"one")
        listed = store.versions()
        assert sorted(listed) == ["a/b/data", "a/more", "other"]
        assert listed == {name: store.version(name) for name in listed}
        assert store.child("a").versions() == {n: listed[f"a/{n}"] for n in ("b/data", "more")}
        store.write("other", b"two")
        assert store.version("other") == store.versions()["other"]
        assert store.version("other") != listed["other"] or not listed["other"]
        assert store.version("a/more") == listed["a/more"]

    def test_a_reader_can_seek(self, store: Store) -> None:
        store.write("data", b"0123456789")
        with store.reader("data") as stream:
            stream.seek(8)
            assert stream.read() == b"89"
            stream.seek(-4, 1)
            assert stream.read(2) == b"67"
            stream.seek(0, 2)
            assert stream.tell() == 10
            assert stream.read(1) == b""

    def test_what_is_not_there_is_said_so(self, store: Store) -> None:
        assert not store.exists("nothing")
        assert store.size("nothing") is None
        assert store.list("nothing") == []
        assert store.child("nothing").walk() == []
        store.delete("nothing")
        for read in (store.read, store.read_tagged, lambda name: store.read_range(name, 0, 1)):
            with pytest.raises(FileNotFoundError):
                read("nothing")
        with pytest.raises(FileNotFoundError), store.reader("nothing"):
            pass

    def test_a_deleted_folder_is_gone_with_all_below(self, store: Store) -> None:
        for name in ("run/a", "run/b/c", "run-2/a", "other"):
            store.write(name, b"1")
        store.delete("run")
        assert store.list() == ["other", "run-2"]
        store.delete("other")
        assert store.walk() == ["run-2/a"]

    def test_create_never_replaces(self, store: Store) -> None:
        assert store.create("once", b"first")
        assert not store.create("once", b"second")
        assert store.read("once") == b"first"

    def test_replace_takes_the_version_that_was_read_and_no_other(self, store: Store) -> None:
        assert store.replace("pointer", b"1", tag=None)
        assert not store.replace("pointer", b"2", tag=None)
        data, tag = store.read_tagged("pointer")
        assert data == b"1"
        assert store.replace("pointer", b"2", tag=tag)
        assert not store.replace("pointer", b"3", tag=tag)
        assert store.read("pointer") == b"2"
        store.delete("pointer")
        assert not store.replace("pointer", b"3", tag=tag)
        assert not store.exists("pointer")

    def test_a_change_may_leave_things_as_they_are(self, store: Store) -> None:
        seen: list[bytes | None] = []

        def look(old: bytes | None) -> None:
            seen.append(old)

        store.change("name", look)
        store.change("name", lambda _: b"new")
        store.change("name", look)
        assert seen == [None, b"new"]

    def test_of_eight_writers_one_creates(self, store: Store) -> None:
        for prize in map(str, range(5)):
            winners: list[int] = []

            def create(number: int, *, prize: str = prize, winners: list[int] = winners) -> None:
                if store.create(prize, str(number).encode()):
                    winners.append(number)

            at_once(create)
            assert len(winners) == 1
            assert store.read(prize) == str(winners[0]).encode()

    def test_of_eight_writers_none_undoes_another(self, store: Store) -> None:
        """A counter that everybody adds to: each lost update would be missing from the sum."""

        def add(_: int) -> None:
            for _ in range(5):
                store.change("counter", lambda old: str(int(old or 0) + 1).encode())

        at_once(add)
        assert store.read("counter") == str(5 * WRITERS).encode()

    def test_a_stream_that_breaks_off_leaves_nothing(self, store: Store) -> None:
        store.write("kept", b"old")
        for name in ("kept", "fresh"):
            with pytest.raises(RuntimeError, match="killed"):
                break_off(store, name)
        assert store.read("kept") == b"old"
        assert store.list() == ["kept"]

    def test_streams_do_not_disturb_one_another(self, store: Store) -> None:
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
            assert outer.tell() == 7
            assert not store.exists("outer")
        assert store.read("outer") == b"one two"
        assert store.list() == ["created", "inner", "outer", "small"]

    def test_a_writable_store_is_left_as_it_was(self, store: Store) -> None:
        store.check_writable()
        assert store.list() == []
