"""Looks at something that changes: soon at first, few in the end."""

import time

import pytest

from goku_platform.cluster.pauses import Pauses


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_the_first_looks_come_soon_and_half_a_minute_costs_few(slept: list[float]) -> None:
    pauses = Pauses()
    while sum(slept) < 30:
        pauses.sleep()
    assert sum(slept[:3]) < 1
    assert slept == sorted(slept)
    assert len(slept) < 20


def test_a_deadline_is_not_slept_through(slept: list[float]) -> None:
    pauses = Pauses()
    pauses.sleep(at_most=0.05)
    pauses.sleep(at_most=-1.0)
    assert slept == [0.05, 0.0]
