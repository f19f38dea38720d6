"""The record of an ended attempt: lost steps, and seconds that sum to the wall time."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.contract.account import account
from goku.contract.attempts import Attempt, Steps
from goku.contract.exits import Cause
from goku.contract.metrics import TimeClass
from goku.contract.pod import PodDir, Progress, Verdict
from goku_platform.supervisor import record
from goku_platform.supervisor.gang import Report
from goku_platform.supervisor.watch import Watch


def progress(section: str = "step", **more: object) -> Progress:
    return Progress(rank=0, pid=1, section=section, budget_seconds=1).model_copy(update=more)


def closed(
    pod: PodDir, cause: Cause = Cause.CRASHED, message: str = "", committed: Steps | None = None
) -> Attempt:
    watch = Watch(pod, frozenset({0}), start_budget=None)
    watch.look()
    attempt = Attempt(number=4, started_at=time.time() - 10)
    report = Report(node_rank=0, host="a", verdict=Verdict(cause, message), steps=watch.steps)
    return record.closed(
        attempt,
        [report],
        progress=watch.progress.get(0),
        committed=lambda: committed or Steps(),
        at=time.time(),
    )


@pytest.mark.parametrize(
    ("first", "last", "durable", "lost"),
    [
        (None, None, None, 0),  # it never got to a step
        (0, 0, 0, 0),
        (0, 7, 0, 7),
        (0, 7, 5, 2),
        (100, 107, 100, 7),
        (100, 107, None, 7),  # the restored step is durable, whoever saved it
    ],
)
def test_lost_steps(
    tmp_path: Path, first: int | None, last: int | None, durable: int | None, lost: int
) -> None:
    pod = PodDir(tmp_path)
    pod.beat(progress(first_step=first, step=last, durable_step=durable))
    attempt = closed(pod)
    assert (attempt.first_step, attempt.last_step, attempt.durable_step) == (first, last, durable)
    assert attempt.lost_steps == lost
    assert attempt.exit_code == 139


def test_a_checkpoint_that_nobody_lived_to_tell_of_is_not_lost(tmp_path: Path) -> None:
    pod = PodDir(tmp_path)
    pod.beat(progress(first_step=0, step=23, durable_step=10))
    attempt = closed(pod, committed=Steps(last=20, durable=20))
    assert (attempt.last_step, attempt.durable_step, attempt.lost_steps) == (23, 20, 3)


def test_the_steps_are_the_highest_that_any_node_has_told() -> None:
    started = Attempt(number=1, started_at=0.0)
    reports = [
        Report(node_rank=rank, host="", verdict=Verdict(Cause.CRASHED, "it broke"), steps=steps)
        for rank, steps in enumerate(
            (Steps(first=2, last=7, durable=4), Steps(first=2, last=8), Steps())
        )
    ]
    ended = record.closed(started, reports, progress=None, committed=Steps, at=10.0)
    assert (ended.first_step, ended.last_step, ended.durable_step) == (2, 8, 4)
    assert ended.lost_steps == 4
    assert sum(ended.seconds.values()) == 10.0


@given(
    st.lists(st.floats(0, 1e5), min_size=len(TimeClass), max_size=len(TimeClass)),
    st.floats(0, 1e6),
    st.sampled_from(list(Cause)),
    st.sampled_from(["start", "step", "save", "done"]),
)
def test_the_classes_always_sum_to_the_wall_time(
    parts: list[float], wall: float, cause: Cause, section: str
) -> None:
    spent = {cls.value: part for cls, part in zip(TimeClass, parts, strict=True)}
    seconds = account(progress(section, seconds=spent), wall=wall, cause=cause)
    assert set(seconds) == set(TimeClass)
    assert sum(seconds.values()) == pytest.approx(wall, rel=1e-9, abs=1e-9)
    assert min(seconds.values()) >= 0


@pytest.mark.parametrize(
    ("beat", "cause", "cls"),
    [
        (None, Cause.KILLED, TimeClass.STARTUP),
        (None, Cause.HUNG, TimeClass.HANG),
        (progress("start", seconds={"startup": 1.0}), Cause.KILLED, TimeClass.STARTUP),
        (progress("step", seconds={"startup": 1.0}), Cause.KILLED, TimeClass.SHUTDOWN),
        (progress("step", seconds={"startup": 1.0}), Cause.HUNG, TimeClass.HANG),
    ],
)
def test_where_the_time_after_the_last_heartbeat_goes(
    beat: Progress | None, cause: Cause, cls: TimeClass
) -> None:
    seconds = account(beat, wall=10.0, cause=cause)
    assert seconds[cls] == (9.0 if beat and cls is not TimeClass.STARTUP else 10.0)


def test_the_summary_is_one_line_with_the_numbers(tmp_path: Path) -> None:
    pod = PodDir(tmp_path)
    pod.beat(progress(first_step=0, step=7, durable_step=5, seconds={"productive": 5.0}))
    line = record.summary(closed(pod, message="rank 1: it broke"))
    assert line.startswith(
        "attempt 4: crashed (exit 139) in 10.0 s, steps 0 to 7, durable 5, lost 2"
    )
    assert line.endswith("goodput 50%: rank 1: it broke")
    assert "steps" not in record.summary(closed(PodDir(tmp_path / "empty")))
