"""The alarm behind `--timeout`: it interrupts what blocks, and leaves other alarms alone."""

import signal
import time
from contextlib import suppress

import pytest

from goku_platform.cli.deadline import limit
from goku_platform.errors import OverdueError


def test_what_blocks_is_interrupted_with_a_next_step() -> None:
    began = time.monotonic()
    told = r"status: it had no answer within 0\.05 s.*--timeout"
    with pytest.raises(OverdueError, match=told), limit(0.05, "status"):
        time.sleep(30)
    assert time.monotonic() - began < 5


def test_an_endless_limit_is_one() -> None:
    with limit(float("inf"), "status"):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 3600


def test_a_retry_loop_does_not_swallow_it() -> None:
    def retry() -> None:
        while True:
            with suppress(Exception):
                time.sleep(30)

    with pytest.raises(OverdueError), limit(0.05, "status"):
        retry()


def test_an_alarm_around_it_goes_on() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: rung.append(number))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with limit(5, "status"):
            pass
        time.sleep(0.4)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *outer)
    assert rung == [signal.SIGALRM]


def test_what_is_quick_is_not_disturbed() -> None:
    with limit(0.05, "status"):
        answer = 42
    time.sleep(0.1)
    assert answer == 42
