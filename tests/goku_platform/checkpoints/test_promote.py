"""Promote: one record sets later checkpoints aside, whoever commits them and whenever."""

import time

import pytest

from goku.contract import promoted
from goku.contract.attempts import Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.manifest import CorruptCheckpoint
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.errors import RunError
from goku_platform.runs.checkpoints.look import listing
from goku_platform.runs.checkpoints.promote import promote
from goku_platform.runs.resume import resume
from goku_platform.settings import Settings
from tests.goku_platform import made
from tests.goku_platform.command import Call


@pytest.fixture
def run(store: str) -> RunDir:
    made_run = made.run(store)
    made.attempt(made_run, Cause.YIELDED, first_step=0, last_step=60)
    for step in (20, 40, 60):
        made.checkpoint(made_run, step)
    return made_run


def latest(run: RunDir) -> int:
    manifest = run.latest()
    assert manifest is not None
    return manifest.step


def test_a_resume_goes_on_from_the_promoted_step(run: RunDir) -> None:
    done = promote(run, FakeClient(), 20)
    assert (done.step, done.before, done.set_aside) == (20, 60, (40, 60))
    assert latest(run) == 20
    assert run.steps() == [20, 40, 60]
    assert [one.set_aside for one in listing(run)] == [False, True, True]


def test_a_run_that_is_done_can_be_resumed_from_a_promoted_step(run: RunDir) -> None:
    made.attempt(run, Cause.DONE, first_step=60, last_step=80)
    made.checkpoint(run, 80, attempt=2)
    promote(run, FakeClient(), 40)
    again = resume(run, Settings(), FakeClient(), code_version="test")
    assert again.from_step == 40
    promote(run, FakeClient(), 80)  # taken back
    with pytest.raises(RunError, match="it is done"):
        resume(run, Settings(), FakeClient(), code_version="test")
    promote(run, FakeClient(), 40)
    made.attempt(run, Cause.DONE, first_step=40, last_step=80)
    with pytest.raises(RunError, match="it is done"):
        resume(run, Settings(), FakeClient(), code_version="test")


def test_the_next_attempt_counts_again(run: RunDir) -> None:
    promote(run, FakeClient(), 20)
    made.attempt(run, Cause.RUNNING)
    made.checkpoint(run, 30, attempt=2)
    assert latest(run) == 30
    made.checkpoint(run, 80, attempt=1)  # of a zombie, however late
    assert latest(run) == 30


def test_a_promotion_can_be_taken_back(run: RunDir) -> None:
    promote(run, FakeClient(), 20)
    assert promote(run, FakeClient(), 60).set_aside == ()
    assert latest(run) == 60
    promote(run, FakeClient(), 40)
    assert latest(run) == 40


def test_nothing_changes_for_a_step_that_cannot_be_gone_on_from(run: RunDir) -> None:
    changed = bytearray(made.PAYLOAD)
    changed[3] ^= 1
    run.checkpoint(20).write("rank-0.bin", bytes(changed))
    with pytest.raises(CorruptCheckpoint, match=r"step 20: .* Promote another step"):
        promote(run, FakeClient(), 20)
    with pytest.raises(RunError, match="no checkpoint of step 30"):
        promote(run, FakeClient(), 30)
    assert latest(run) == 60
    assert promoted.read(run.store) is None


def test_a_run_that_is_alive_is_left_alone(run: RunDir) -> None:
    client = FakeClient(sightings={run.uri: Sighting(alive=True)})
    with pytest.raises(RunError, match="it is running"):
        promote(run, client, 20)


def test_a_run_that_is_alive_elsewhere_is_stopped_there(run: RunDir) -> None:
    attempt = made.attempt(run, Cause.RUNNING)
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=("pod-0",)))
    with pytest.raises(RunError, match=r"alive on pod-0, .* started it\.$"):  # it has no --force
        promote(run, FakeClient(), 20)


def test_an_attempt_that_begins_meanwhile_is_noticed(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = promoted.write

    def slowly(*arguments: object) -> None:
        Ledger(run).open(host="here", nodes=1, processes_per_node=1)
        write(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(promoted, "write", slowly)
    with pytest.raises(RunError, match="attempt 2 began while step 20 was promoted"):
        promote(run, FakeClient(), 20)


def test_a_record_that_has_changed_is_deleted_by_hand(run: RunDir) -> None:
    run.store.write(promoted.NAME, b'{"step": 20, "at')
    for call in (listing, lambda run: promote(run, FakeClient(), 20)):
        with pytest.raises(CorruptCheckpoint, match=r"/promoted: its bytes have changed. Delete"):
            call(run)
    run.store.delete(promoted.NAME)  # as the message says
    promote(run, FakeClient(), 20)
    assert latest(run) == 20


def test_the_command(run: RunDir, goku: Call) -> None:
    refused = goku("ckpt", "promote", "stage1", "20")
    assert (refused.code, "--yes" in refused.err) == (1, True)
    done = goku("ckpt", "promote", "stage1", "20", "--yes")
    assert done.out == "stage1 goes on from step 20; set aside: 40, 60\n"
    assert "set aside" in goku("ckpt", "ls", "stage1").out
    assert goku("ckpt", "promote", "stage1", "60", "--yes", "--json").json["set_aside"] == []
