"""A rank's side of health: heartbeats, the stop flag, stacks; and the clock beside it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from goku.config.health import HealthConfig
from goku.contract.metrics import TimeClass
from goku.contract.pod import PodDir, Progress
from goku.trainer.clock import Clock
from goku.trainer.health import Health

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
BUDGETS = HealthConfig(
    start_budget_seconds=1, step_budget_seconds=2, save_budget_seconds=3, validate_budget_seconds=4
)


@pytest.fixture
def pod(tmp_path: Path) -> PodDir:
    return PodDir(tmp_path)


@pytest.fixture
def health(pod: PodDir) -> Iterator[Health]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    health = Health(pod, rank=2, budgets=BUDGETS)
    health.install()
    yield health
    health.uninstall()
    for number, handler in before.items():
        signal.signal(number, handler)


def last(pod: PodDir) -> Progress:
    (progress,) = pod.progress()
    return progress


def test_the_first_heartbeat_is_of_the_start(pod: PodDir, health: Health) -> None:
    beat = last(pod)
    assert (beat.rank, beat.pid, beat.section, beat.budget_seconds) == (2, os.getpid(), "start", 1)
    assert (beat.first_step, beat.step, beat.durable_step) == (None, None, None)


def test_a_section_has_its_budget_and_gives_way_to_the_one_around_it(
    pod: PodDir, health: Health
) -> None:
    health.section("step")  # a transition
    with health.section("validate"):
        assert (last(pod).section, last(pod).budget_seconds) == ("validate", 4)
        with health.section("save"):
            assert (last(pod).section, last(pod).budget_seconds) == ("save", 3)
        assert last(pod).section == "validate"
    assert (last(pod).section, last(pod).budget_seconds) == ("step", 2)


def test_steps_are_told_at_once_or_with_the_next_heartbeat(pod: PodDir, health: Health) -> None:
    health.started(10)
    assert (last(pod).first_step, last(pod).step, last(pod).durable_step) == (10, 10, 10)
    health.finished(11)
    assert last(pod).step == 10  # a heartbeat has just been: the disk is spared
    with health.section("save"):
        assert last(pod).step == 11
    health.durable(11)
    assert last(pod).durable_step == 11
    time.sleep(0.15)
    health.finished(12)
    assert last(pod).step == 12


def test_a_heartbeat_carries_the_clock_and_the_port(pod: PodDir) -> None:
    clock = Clock(time.time() - 5)
    health = Health(pod, rank=0, budgets=BUDGETS, clock=clock)
    health.metrics_port = 9400
    health.beat()
    beat = last(pod)
    assert sum(beat.seconds.values()) == pytest.approx(5, abs=0.5)
    assert beat.metrics_port == 9400


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_only_sets_the_flag(health: Health, number: int) -> None:
    assert not health.stop_requested()
    os.kill(os.getpid(), number)
    assert health.stop_requested()


def test_the_pods_request_is_heard(pod: PodDir, health: Health) -> None:
    pod.request_stop()
    assert health.stop_requested()


def test_stacks_of_all_threads_on_demand(pod: PodDir, health: Health) -> None:
    release = threading.Event()

    def waits_in_a_thread() -> None:
        release.wait(10)

    thread = threading.Thread(target=waits_in_a_thread)
    thread.start()
    os.kill(os.getpid(), signal.SIGUSR2)
    release.set()
    thread.join()
    text = pod.stacks_path(2).read_text()
    assert "waits_in_a_thread" in text
    assert "test_stacks_of_all_threads_on_demand" in text
    assert not health.stop_requested()


def test_the_clock_starts_with_the_attempt() -> None:
    seconds = Clock(time.time() - 7).seconds()
    assert seconds["startup"] == pytest.approx(7, abs=0.5)
    assert set(seconds) == set(TimeClass)
    assert Clock(time.time() + 100).seconds()["startup"] < 1  # a wrong clock invents no time


def test_time_belongs_to_one_class_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10**15]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    clock = Clock(now[0] / 1e9 - 2)

    def spend(seconds: float) -> None:
        now[0] += int(seconds * 1e9)

    spend(1)
    clock.enter(TimeClass.RESTORE)
    spend(0.25)
    clock.enter(TimeClass.PRODUCTIVE)
    spend(4)
    with clock.inside(TimeClass.DATA_WAIT):
        spend(0.5)
        with clock.inside(TimeClass.CHECKPOINT_STALL):
            assert clock.current is TimeClass.CHECKPOINT_STALL
            spend(0.125)
    spend(1)
    assert {name: value for name, value in clock.seconds().items() if value} == {
        "startup": 3.0,
        "restore": 0.25,
        "productive": 5.0,
        "data_wait": 0.5,
        "checkpoint_stall": 0.125,
    }
    assert sum(clock.seconds().values()) == 8.875


def test_the_class_is_left_when_the_work_raises() -> None:
    clock = Clock(time.time())
    with pytest.raises(KeyError), clock.inside(TimeClass.VALIDATION):
        raise KeyError
    assert clock.current is TimeClass.STARTUP
