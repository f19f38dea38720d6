"""How every app ends: its verdict, its exit code, and what it prints."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from goku.apps.entry import judge
from goku.config import ConfigError, presets
from goku.contract.exits import Cause, Exit
from goku.contract.lineage import PARENT
from goku.contract.manifest import CorruptCheckpoint
from goku.contract.pod import PodDir
from goku.contract.rundir import Fenced, RunDir, Unsaved
from goku.contract.store import StoreError, StoreUnavailable

APP = """
import atexit, os, sys
from goku.apps.entry import launch
from goku.config import ConfigError
from goku.contract.exits import Cause

def work(context):
    print(context.rank, context.attempt, context.started_at, context.config.name)
    {body}

atexit.register(print, "an exit hook ran")
launch(work)
"""


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def test_only_errors_meant_for_the_user_are_the_users() -> None:
    class Deliberate(ValueError):
        __module__ = "goku.data.video"

    for error in (
        ConfigError("a=1", "b", "c"),
        StoreError("s"),
        CorruptCheckpoint("c"),
        Deliberate("broken.mp4"),
        FileNotFoundError("weights"),
    ):
        assert judge(error).cause is Cause.USER_ERROR
    assert judge(Fenced("taken over")).cause is Cause.SUPERSEDED
    for bug in (ValueError("shape"), RuntimeError("gloo"), KeyError("x"), SystemExit(3)):
        assert judge(bug).cause is Cause.CRASHED


def test_a_store_that_is_away_is_nobodys_error_and_never_a_good_end() -> None:
    assert judge(StoreUnavailable("away")).cause is Cause.CRASHED  # retried
    assert judge(Unsaved("asked to stop, but away")).cause is Cause.UNSAVED


def test_memory_is_known_by_name() -> None:
    cpu = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    for error in (MemoryError(), OutOfMemoryError("CUDA out of memory"), cpu):
        assert judge(error).cause is Cause.OUT_OF_MEMORY


def test_messages_are_one_line() -> None:
    assert judge(RuntimeError("one\n  two")).message == "RuntimeError: one two"
    assert judge(MemoryError()).message == "MemoryError"
    assert judge(StoreError("a\nb")).message == "a b"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A run on disk, as rank 3 of attempt 7 sees it."""
    config = presets.build("sample", store=str(tmp_path), size="tiny", name="one")
    RunDir(str(tmp_path / "one")).freeze(config, "test")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GOKU_")}
    return bare | {
        "GOKU_RUN": str(tmp_path / "one"),
        "GOKU_POD_DIR": str(tmp_path / "pod"),
        "GOKU_ATTEMPT": "7",
        "GOKU_ATTEMPT_STARTED": "12.5",
        "RANK": "3",
    }


def run(environ: dict[str, str], body: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", APP.format(body=body)]
    return subprocess.run(line, env=environ, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "code", "cause", "message"),
    [
        ("return Cause.DONE", 0, Cause.DONE, ""),
        ("return Cause.YIELDED", 0, Cause.YIELDED, ""),
        ("raise ConfigError('a=1', 'no', 'Mend it.')", 1, Cause.USER_ERROR, "a=1: no. Mend it."),
        ("raise MemoryError", 137, Cause.OUT_OF_MEMORY, "MemoryError"),
        ("raise TypeError('x')", 139, Cause.CRASHED, "TypeError: x"),
    ],
)
def test_the_end_is_judged_and_coded(
    environ: dict[str, str], body: str, code: int, cause: Cause, message: str
) -> None:
    ended = run(environ, body)
    verdict = PodDir(Path(environ["GOKU_POD_DIR"])).verdicts()[3]
    assert ended.returncode == code
    assert ended.stdout == "3 7 12.5 one\n"  # flushed; and no exit hook
    assert (verdict.cause, verdict.message) == (cause, message)
    assert ("Traceback" in ended.stderr) == (cause in (Cause.CRASHED, Cause.OUT_OF_MEMORY))
    assert ("goku: error: a=1" in ended.stderr) == (cause is Cause.USER_ERROR)


def test_a_run_that_is_not_there_is_the_users_error(environ: dict[str, str]) -> None:
    ended = run(environ | {"GOKU_RUN": "/nowhere/one"}, "return Cause.DONE")
    assert ended.returncode == Exit.USER_ERROR
    assert "/nowhere/one/run.json" in ended.stderr


def test_a_missing_variable_is_named(environ: dict[str, str]) -> None:
    del environ["GOKU_POD_DIR"]
    ended = run(environ, "return Cause.DONE")
    assert ended.returncode == Exit.USAGE
    assert "GOKU_POD_DIR not set" in ended.stderr
    assert "goku-platform launch" in ended.stderr


def test_a_rank_whose_parent_is_gone_does_not_begin(environ: dict[str, str]) -> None:
    ended = run(environ | {PARENT: "1"}, "return Cause.DONE")
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == ""
    ended = run(environ | {PARENT: str(os.getpid())}, "print(os.getenv('GOKU_PARENT_PID'))")
    assert "None" in ended.stdout  # it is not for the rank's own children


def test_entry_needs_no_torch() -> None:
    line = [sys.executable, "-c", "import goku.apps.entry, sys; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(line).returncode == 0
