"""The pod folder between supervisor and ranks: stop, heartbeats, verdicts."""

import time
from pathlib import Path

import pytest

from goku.contract.exits import Cause
from goku.contract.pod import PodDir, Progress, Verdict


@pytest.fixture
def pod(tmp_path: Path) -> PodDir:
    return PodDir(tmp_path / "pod")


def test_a_stop_request_waits_for_whoever_comes_late(pod: PodDir) -> None:
    assert not pod.stop_requested()
    pod.request_stop()
    pod.request_stop()
    assert PodDir(pod.folder).stop_requested()


def test_the_last_heartbeat_of_each_rank_is_read_by_rank(pod: PodDir) -> None:
    for rank, step in ((1, 4), (0, 4), (1, 5)):
        pod.beat(Progress(rank=rank, pid=100, section="step", budget_seconds=60, step=step))
    assert [(beat.rank, beat.step) for beat in pod.progress()] == [(0, 4), (1, 5)]


def test_a_heartbeat_is_overdue_when_its_section_outlived_its_budget() -> None:
    beat = Progress(rank=0, pid=1, section="save", budget_seconds=60, beat_at=time.time() - 90)
    assert 29 < beat.overdue_seconds < 40
    assert beat.model_copy(update={"budget_seconds": 600}).overdue_seconds < 0


def test_the_first_verdict_of_a_rank_stays(pod: PodDir) -> None:
    pod.judge(3, Verdict(Cause.USER_ERROR, "the value, the rule, the fix"))
    pod.judge(3, Verdict(Cause.CRASHED, "because the first one unwound"))
    pod.judge(1, Verdict(Cause.OUT_OF_MEMORY, "on the GPU"))
    assert pod.verdicts() == {
        1: Verdict(Cause.OUT_OF_MEMORY, "on the GPU"),
        3: Verdict(Cause.USER_ERROR, "the value, the rule, the fix"),
    }


def test_clear_forgets_an_earlier_attempt(pod: PodDir) -> None:
    pod.request_stop()
    pod.judge(0, Verdict(Cause.CRASHED, ""))
    pod.beat(Progress(rank=0, pid=1, section="start", budget_seconds=1))
    pod.stacks_path(0).write_text("stacks")
    pod.clear()
    assert not pod.stop_requested()
    assert pod.verdicts() == {}
    assert pod.progress() == []
    assert list(pod.folder.iterdir()) == []
