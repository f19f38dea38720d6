"""The ledger of attempts: numbers, the fence, and who is declared lost."""

import threading
from pathlib import Path

import pytest

from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import Fenced, RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path / "run"))


def begin(ledger: Ledger) -> Attempt:
    return ledger.open(host="pod-0", nodes=1, processes_per_node=2)


def test_attempts_are_numbered_and_fence_off_their_predecessors(run: RunDir) -> None:
    ledger = Ledger(run)
    assert ledger.last() is None
    assert [begin(ledger).number for _ in range(3)] == [1, 2, 3]
    run.check_fence(3)
    with pytest.raises(Fenced):
        run.check_fence(2)


def test_an_attempt_that_never_ended_is_recorded_as_lost(run: RunDir) -> None:
    ledger = Ledger(run)
    begin(ledger)
    begin(ledger)
    assert [attempt.cause for attempt in ledger.all()] == [Cause.LOST, Cause.RUNNING]


def test_attempts_opened_at_once_get_different_numbers(run: RunDir) -> None:
    numbers: list[int] = []
    barrier = threading.Barrier(5)

    def open_one() -> None:
        barrier.wait()
        numbers.append(begin(Ledger(RunDir(run.uri))).number)

    threads = [threading.Thread(target=open_one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4, 5]
