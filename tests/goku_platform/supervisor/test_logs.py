"""Logs reach the store in parts, survive a store that fails, and never hold up the program."""

import io
import os
import threading
import time
from pathlib import Path

import pytest

from goku.contract.store import Store
from goku_platform.supervisor import logs
from goku_platform.supervisor.logs import Log


class Moody(Store):
    """A store that fails for a while."""

    def __init__(self, uri: str, failures: int) -> None:
        super().__init__(uri)
        self.failures = failures

    def write(self, name: str, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("try later")
        super().write(name, data)


def parts(store: Store) -> list[str]:
    return [store.read(name).decode() for name in store.list()]


def test_parts_follow_one_another_and_add_up(tmp_path: Path) -> None:
    store, out = Store(str(tmp_path)), io.BytesIO()
    log = Log(store, out=out, part_seconds=0.05)
    log.write(b"one\n")
    deadline = time.monotonic() + 5
    while not store.list() and time.monotonic() < deadline:
        time.sleep(0.01)
    log.say("two")
    log.close()
    assert store.list() == ["part-00000000.log", "part-00000001.log"]
    assert parts(store) == ["one\n", "goku: two\n"]
    assert out.getvalue() == b"one\ngoku: two\n"


def test_a_full_part_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_PART_BYTES", 10)
    store = Store(str(tmp_path))
    log = Log(store, out=io.BytesIO(), part_seconds=3600)
    log.write(b"more than ten bytes")
    deadline = time.monotonic() + 5
    while not store.list():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    log.close()


def test_a_failing_store_is_tried_again_and_named_once(tmp_path: Path) -> None:
    store, out = Moody(str(tmp_path), failures=3), io.BytesIO()
    log = Log(store, out=out, part_seconds=0.01)
    log.write(b"precious\n")
    time.sleep(0.2)
    log.close()
    assert "precious\n" in "".join(parts(store))
    assert out.getvalue().count(b"does not take the log (try later)") == 1


def test_a_dead_store_keeps_no_more_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_KEPT_BYTES", 300)
    store = Moody(str(tmp_path), failures=3)
    log = Log(store, out=io.BytesIO(), part_seconds=0.01)
    log.write(b"x" * 5000 + b"the end")
    while store.failures:
        time.sleep(0.01)
    log.close()
    kept = "".join(parts(store))
    assert len(kept) < 600
    assert "the end" in kept


def test_a_stream_is_copied_to_its_end(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    log = Log(store, out=io.BytesIO(), part_seconds=3600)
    reading, writing = os.pipe()
    log.follow(os.fdopen(reading, "rb"))
    with os.fdopen(writing, "wb") as stream:
        stream.write(b"a" * 200_000)
    log.close()
    assert len("".join(parts(store))) == 200_000


def test_a_closed_output_is_no_reason_to_stop(tmp_path: Path) -> None:
    store, out = Store(str(tmp_path)), io.BytesIO()
    out.close()
    log = Log(store, out=out, part_seconds=0.01)
    log.write(b"still here")
    log.close()
    assert parts(store) == ["still here"]


def test_a_store_that_hangs_does_not_keep_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_CLOSE_SECONDS", 0.1)
    store, release = Store(str(tmp_path)), threading.Event()
    monkeypatch.setattr(store, "write", lambda name, data: release.wait(10))
    log = Log(store, out=io.BytesIO(), part_seconds=0.01)
    log.write(b"text")
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 2
    release.set()
