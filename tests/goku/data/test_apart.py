"""Steps that another process makes: the same ones, with its errors, and it ends in time."""

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.config.data import DataConfig
from goku.config.errors import ConfigError
from goku.data import apart
from goku.data.apart import Apart
from goku.data.encoding import Sample
from goku.data.loader import Loader, StepBatch
from tests.goku.data.fakes import FakeSource

pytestmark = pytest.mark.slow

_SECONDS = 20.0


class Broken(FakeSource):
    """A source that cannot read its third sample."""

    def load(self, index: int, *, caption: bool) -> Sample:
        if index == 2:
            raise FileNotFoundError("shard x is gone")
        return super().load(index, caption=caption)


class Odd(Exception):
    """One that no other process can make."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Counting(Loader):
    """A loader that writes down how far it has come, and its process."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(FakeSource(4, 4), config(), patch=2, **options)
        self._folder = folder

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        (self._folder / "pid").write_text(str(os.getpid()))
        for number, step in enumerate(super().steps(samples_seen)):
            (self._folder / "made").write_text(str(number))
            yield step


class Raising(Loader):
    """A loader that has no steps."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        super().__init__(FakeSource(4, 4), config(), patch=2)
        self._error = error

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        raise self._error()
        yield  # a generator


class Stuck(Loader):
    """A loader whose third step is long in coming."""

    def __init__(self) -> None:
        super().__init__(FakeSource(4, 4), config(), patch=2)

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        for number, step in enumerate(super().steps(samples_seen)):
            if number == 2:
                self.linger()
            yield step

    def linger(self) -> None:
        time.sleep(3)


def config() -> DataConfig:
    return DataConfig(image_share=0.5, pack_tokens=64, packs_per_step=2, prefetch_packs=2, seed=3)


def loader(source: type[FakeSource] = FakeSource) -> Loader:
    return Loader(source(6, 6), config(), patch=2)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_steps_are_those_of_the_loader() -> None:
    plain = list(islice(loader().steps(7), 5))
    found = list(islice(Apart(loader, pinned=False).steps(7), 5))
    for one, other in zip(plain, found, strict=True):
        assert one._replace(packs=[]) == other._replace(packs=[])
        for pack, same in zip(one.packs, other.packs, strict=True):
            assert torch.equal(pack.x_NP, same.x_NP)
            assert torch.equal(pack.text_MY, same.text_MY)
            assert torch.equal(pack.layout.position_N3, same.layout.position_N3)
            assert pack.ordinals == same.ordinals
            assert pack.division == same.division


def test_errors_arrive_as_they_are_and_say_where() -> None:
    with pytest.raises(FileNotFoundError, match="is gone") as raised:
        list(islice(Apart(partial(loader, Broken), pinned=False).steps(), 20))
    assert str(raised.value) == "shard x is gone"
    assert "in load" in "".join(raised.value.__notes__)
    error = partial(ConfigError, "data.seed=1", "it is odd", "Take 2")
    with pytest.raises(ConfigError) as config_error:
        next(Apart(partial(Raising, error), pinned=False).steps())
    assert config_error.value.fix == "Take 2"


def test_an_error_that_cannot_travel_is_told() -> None:
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        next(Apart(partial(Raising, partial(Odd, 1, 2)), pinned=False).steps())


def test_a_feed_that_cannot_be_made_is_told() -> None:
    with pytest.raises(TypeError, match="unexpected"):
        next(Apart(partial(loader, unexpected=1), pinned=False).steps())  # type: ignore[call-arg]


def test_a_process_that_is_killed_is_told(tmp_path: Path) -> None:
    steps = Apart(partial(Counting, tmp_path), pinned=False).steps()
    next(steps)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"ended by SIGKILL.*lower data\.prefetch_packs"):
        list(steps)


def test_a_step_that_is_long_in_coming_leaves_stacks_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader = Apart(Stuck, pinned=False).steps()
    for _ in range(2):
        next(reader)
    monkeypatch.setattr(apart, "_LONG_SECONDS", 0.5)
    next(reader)
    assert "in linger" in capfd.readouterr().err
    reader.close()


def test_a_process_that_cannot_begin_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that complains when it is thrown away."""
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        Apart(loader, pinned=False)
    gc.collect()
    assert noise == []


def test_it_makes_no_more_than_are_wanted(tmp_path: Path) -> None:
    steps = Apart(partial(Counting, tmp_path), pinned=False).steps()
    next(steps)
    time.sleep(0.5)
    made = int((tmp_path / "made").read_text())
    time.sleep(0.5)
    assert int((tmp_path / "made").read_text()) == made


def test_nothing_of_what_it_reads_is_kept_here() -> None:
    source = FakeSource(4, 4)
    kept = weakref.ref(source)
    steps = Apart(partial(Loader, source, config(), patch=2), pinned=False).steps()
    del source
    next(steps)
    gc.collect()
    assert kept() is None


def test_its_process_ends_with_the_steps(tmp_path: Path) -> None:
    steps = Apart(partial(Counting, tmp_path), pinned=False).steps()
    next(steps)
    pid = int((tmp_path / "pid").read_text())
    assert pid != os.getpid()
    assert lives(pid)
    steps.close()
    assert not lives(pid)


def test_its_process_ends_where_no_step_was_asked_for(tmp_path: Path) -> None:
    feed = Apart(partial(Counting, tmp_path), pinned=False)
    process = feed._reader._process  # type: ignore[union-attr]
    assert lives(process.pid)
    del feed
    until(lambda: process.poll() is not None)


_PARENT = """
import sys
from functools import partial
from pathlib import Path
from goku.data.apart import Apart
from tests.goku.data.test_apart import Counting
steps = Apart(partial(Counting, Path(sys.argv[1])), pinned=False).steps()
next(steps)
print("has begun", flush=True)
sys.stdin.read()
"""


def test_its_process_dies_with_the_rank(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"has begun\n"
        pid = int((tmp_path / "pid").read_text())
        assert lives(pid)
        parent.kill()
    until(lambda: not lives(pid))
