"""The courier: training never waits for it, and nothing that matters is lost while the store is."""

import threading
import time
from pathlib import Path

import pytest

from goku.contract.store import Store, StoreError, StoreUnavailable
from goku.trainer.courier import Courier


class Flaky(Store):
    """A store that says what it is told to; `entered` is set whenever somebody writes."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.error: Exception | None = None
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.written: list[tuple[str, bytes]] = []

    def write(self, name: str, data: bytes) -> None:
        self.entered.set()
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        self.written.append((name, data))


@pytest.fixture
def store(tmp_path: Path) -> Flaky:
    return Flaky(str(tmp_path))


def test_only_the_newest_version_is_written(store: Flaky) -> None:
    courier = Courier(store)
    courier.send("rows", b"1")
    assert store.entered.wait(20)
    started = time.monotonic()
    for version in (b"2", b"3", b"4"):
        courier.send("rows", version)
    courier.send("times", b"t")
    assert not courier.drain(seconds=0.05)
    assert time.monotonic() - started < 5  # nobody waited for the store
    store.go_on.set()
    assert courier.drain(seconds=20)
    assert store.written == [("rows", b"1"), ("rows", b"4"), ("times", b"t")]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OSError("no space left")])
def test_what_could_not_be_written_is_written_when_the_store_is_back(
    store: Flaky, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    courier = Courier(store, pause_seconds=0.01)
    store.error = error
    store.go_on.set()
    courier.send("rows", b"1")
    assert not courier.drain(seconds=0.2)
    courier.send("rows", b"2")
    store.error = None
    assert courier.drain(seconds=20)
    assert store.written[-1] == ("rows", b"2")
    assert capsys.readouterr().out.count("metrics are not written") == 1


def test_what_is_refused_for_good_is_dropped(
    store: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    courier = Courier(store)
    store.error = StoreError("access is denied")
    store.go_on.set()
    courier.send("rows", b"1")
    assert courier.drain(seconds=20)
    assert store.written == []
    assert "access is denied" in capsys.readouterr().out
