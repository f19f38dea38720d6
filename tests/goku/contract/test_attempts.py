"""The ledger of attempts: numbers, the fence, and who is declared lost."""

import json
import threading
from pathlib import Path

import pytest

from goku.contract.attempts import Attempt, Ledger, Pulse, Steps
from goku.contract.exits import EXIT_OF, Cause
from goku.contract.manifest import Manifest
from goku.contract.metrics import TimeClass
from goku.contract.pod import Progress, Verdict
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


def progress(**fields: object) -> Progress:
    made = Progress(rank=0, pid=1, section="step", budget_seconds=60)
    return made.model_copy(update=fields)


def test_the_last_pulse_speaks_for_an_attempt_that_vanished(run: RunDir) -> None:
    ledger = Ledger(run)
    lost = begin(ledger)
    at = lost.started_at + 100.0
    beat = progress(first_step=10, step=35, durable_step=30, seconds={"productive": 90.0})
    ledger.beat(lost.number, Pulse(at=at, hosts=("a", "b"), progress=beat))
    begin(ledger)
    ended = ledger.get(lost.number)
    assert (ended.cause, ended.exit_code, ended.ended_at) == (Cause.LOST, None, at)
    assert (ended.first_step, ended.last_step, ended.durable_step) == (10, 35, 30)
    assert ended.lost_steps == 5
    assert ended.seconds[TimeClass.PRODUCTIVE] == 90.0
    assert sum(ended.seconds.values()) == pytest.approx(100.0)
    assert ended.fruitful


@pytest.mark.parametrize(("attempt", "durable", "lost"), [(1, 40, 0), (7, 30, 5)])
def test_a_checkpoint_is_newer_than_the_pulse(
    run: RunDir, attempt: int, durable: int, lost: int
) -> None:
    ledger = Ledger(run)
    first = begin(ledger)
    beat = progress(first_step=10, step=35, durable_step=30)
    ledger.beat(first.number, Pulse(at=first.started_at + 1, hosts=(), progress=beat))
    manifest = Manifest(
        step=40, attempt=attempt, samples_seen=0, optimizer_steps=40, world_size=1,
        config_digest="", code_version="", created_at=0.0, tensors={}, files={},
    )  # fmt: skip
    run.checkpoint(40).write("manifest.json", manifest.encode())
    begin(ledger)
    ended = ledger.get(first.number)
    assert (ended.durable_step, ended.lost_steps) == (durable, lost)


def test_without_a_pulse_nothing_is_known(run: RunDir) -> None:
    ledger = Ledger(run)
    assert ledger.pulse(begin(ledger).number) is None
    run.store.write("attempts/0001.pulse", b'{"at": 1')
    assert ledger.pulse(1) is None
    begin(ledger)
    ended = ledger.get(1)
    assert (ended.cause, ended.last_step, ended.lost_steps) == (Cause.LOST, None, 0)
    assert sum(ended.seconds.values()) == 0


def test_two_witnesses_know_the_higher_of_each() -> None:
    assert Steps(first=1, last=5) | Steps(last=4, durable=3) == Steps(first=1, last=5, durable=3)
    assert Steps(first=4, last=9, durable=None).lost == 5
    assert Steps().lost == 0


FINAL = (Cause.DONE, Cause.USER_ERROR, Cause.NO_PROGRESS, Cause.SUPERSEDED)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.RUNNING])
def test_a_final_end_is_one_until_a_person_allows_more(run: RunDir, cause: Cause) -> None:
    ledger = Ledger(run)
    ledger.allow()  # nothing to allow yet
    assert ledger.final() is None
    attempt = begin(ledger)
    assert ledger.final() is None
    ended = attempt.ended(
        Verdict(cause, "why"), at=attempt.started_at, steps=Steps(), progress=None
    )
    ledger.close(ended)
    assert ended.exit_code == EXIT_OF[cause]
    assert ledger.final() == (ended if cause in FINAL else None)
    ledger.allow()
    assert ledger.final() is None
    assert ledger.all() == [ended]


def test_a_record_of_an_earlier_version_is_read(run: RunDir) -> None:
    old = {"number": 1, "started_at": 5.0, "cause": "crashed", "exit_code": 139, "lost_steps": 2}
    run.store.write("attempts/0001.json", json.dumps(old).encode())
    (attempt,) = Ledger(run).all()
    assert (attempt.cause, attempt.lost_steps) == (Cause.CRASHED, 2)


def test_attempts_are_in_order_beyond_four_digits(run: RunDir) -> None:
    for number in (10_000, 9_999):
        record = Attempt(number=number, started_at=0.0)
        run.store.write(f"attempts/{number:04d}.json", record.model_dump_json().encode())
    assert [attempt.number for attempt in Ledger(run).all()] == [9_999, 10_000]
    assert begin(Ledger(run)).number == 10_001
