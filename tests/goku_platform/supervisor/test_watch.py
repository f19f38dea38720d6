"""What the supervisor sees in the pod folder: overdue, failed and absent ranks."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from goku.contract.attempts import Steps
from goku.contract.exits import Cause
from goku.contract.pod import PodDir, Progress, Verdict
from goku_platform.supervisor.watch import Watch

TWO = frozenset({0, 1})


@pytest.fixture
def pod(tmp_path: Path) -> PodDir:
    return PodDir(tmp_path)


def beat(pod: PodDir, rank: int, *, budget: float = 60.0, pid: int | None = None) -> None:
    pod.beat(
        Progress(rank=rank, pid=pid or os.getpid(), section="step", budget_seconds=budget, step=3)
    )


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_longest_overdue_rank_is_named(pod: PodDir) -> None:
    watch = Watch(pod, TWO, start_budget=None)
    beat(pod, 0, budget=0.05)
    beat(pod, 1, budget=0.01)
    watch.look()
    assert watch.hang() is None
    time.sleep(0.1)
    watch.look()
    hang = watch.hang()
    assert hang is not None
    assert (hang.rank, hang.section, hang.budget_seconds) == (1, "step", 0.01)
    assert hang.silent_seconds >= 0.1


def test_a_heartbeat_starts_the_budget_anew(pod: PodDir) -> None:
    watch = Watch(pod, TWO, start_budget=None)
    for _ in range(4):
        beat(pod, 0, budget=0.2)
        watch.look()
        time.sleep(0.1)
        assert watch.hang() is None


def test_silence_is_not_measured_by_the_ranks_wall_clock(pod: PodDir) -> None:
    watch = Watch(pod, TWO, start_budget=None)
    long_ago = time.time() - 3600  # a step of NTP, or a machine that slept
    pod.beat(Progress(rank=0, pid=os.getpid(), section="step", budget_seconds=5, beat_at=long_ago))
    watch.look()
    assert watch.hang() is None


def test_a_rank_that_has_spoken_its_last_word_is_not_overdue(pod: PodDir) -> None:
    watch = Watch(pod, TWO, start_budget=0.01)
    beat(pod, 0, budget=0.01, pid=dead_pid())
    pod.judge(0, Verdict(Cause.DONE, ""))
    pod.judge(1, Verdict(Cause.DONE, ""))
    watch.look()
    time.sleep(0.05)
    assert watch.hang() is None
    assert not watch.failed()


def test_a_rank_without_any_heartbeat_is_missed_after_the_start_budget(pod: PodDir) -> None:
    watch = Watch(pod, TWO, start_budget=0.05)
    beat(pod, 0)
    watch.look()
    assert watch.hang() is None
    time.sleep(0.1)
    hang = watch.hang()
    assert hang is not None
    assert (hang.rank, hang.section) == (1, "start")


def test_failed_are_those_who_said_so_and_those_who_vanished(pod: PodDir) -> None:
    watch = Watch(pod, frozenset({0, 1, 2}), start_budget=None)
    beat(pod, 0)
    beat(pod, 1, pid=dead_pid())
    beat(pod, 2)
    pod.judge(2, Verdict(Cause.CRASHED, "it broke"))
    watch.look()
    assert watch.failed() == {1, 2}


def test_rubbish_in_the_folder_is_survived(pod: PodDir) -> None:
    watch = Watch(pod, TWO, start_budget=None)
    beat(pod, 0)
    watch.look()
    (pod.folder / "progress-00000.json").write_text('{"rank": 0, "pi')
    (pod.folder / "verdict-00000.json").write_text('{"cause": "no such cause", "message": ""}')
    watch.look()
    assert watch.steps.last == 3
    assert watch.verdicts == {}


def test_steps_are_the_highest_that_any_rank_has_told(pod: PodDir) -> None:
    watch = Watch(pod, TWO, start_budget=None)
    assert watch.steps == Steps()
    for rank, durable in ((0, 4), (1, None)):
        pod.beat(
            Progress(
                rank=rank, pid=os.getpid(), section="step", budget_seconds=1,
                first_step=2, step=5 + rank, durable_step=durable,
            )
        )  # fmt: skip
    watch.look()
    assert watch.steps == Steps(first=2, last=6, durable=4)
