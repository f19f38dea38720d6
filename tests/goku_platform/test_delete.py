"""Deleting: never what lives, never the store unless told so, and all that was shown."""

import time
from pathlib import Path

import pytest

from goku.contract import promoted
from goku.contract.attempts import Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.promoted import Promoted
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.errors import RunError
from goku_platform.runs.delete import Part, delete, doomed
from tests.goku_platform import made


@pytest.fixture
def run(store: str) -> RunDir:
    made_run = made.run(store)
    made.checkpoint(made_run, 20)
    made.checkpoint(made_run, 40)
    made.attempt(made_run, Cause.YIELDED)
    made_run.store.write("logs/attempt-0001/node-0000/part-00000000.log", b"line\n")
    return made_run


def test_the_job_alone_leaves_the_store_as_it_is(run: RunDir) -> None:
    client, before = FakeClient(), run.store.walk()
    assert doomed(run, client, Part.NOTHING) == ()
    delete(run, client, Part.NOTHING)
    assert client.deleted == [run.uri]
    assert run.store.walk() == before


def test_checkpoints_go_and_the_run_stays(run: RunDir) -> None:
    client = FakeClient()
    [going] = doomed(run, client, Part.CHECKPOINTS)
    payload = 2 * len(made.PAYLOAD)
    assert (going.name, going.files, going.nbytes > payload) == ("checkpoints", 4, True)
    delete(run, client, Part.CHECKPOINTS)
    assert run.steps() == []
    assert run.exists()
    assert len(Ledger(run).all()) == 1


def test_what_was_said_of_the_checkpoints_goes_with_them(run: RunDir) -> None:
    run.pin(20, "stage3")
    promoted.write(run.store, Promoted(step=20, attempt=1, at=0.0))
    names = {going.name for going in doomed(run, FakeClient(), Part.CHECKPOINTS)}
    assert names == {"checkpoints", "pins", "promoted"}
    delete(run, FakeClient(), Part.CHECKPOINTS)
    assert run.pins() == {}
    assert promoted.read(run.store) is None


def test_all_leaves_nothing(run: RunDir, store: str) -> None:
    names = {going.name for going in doomed(run, FakeClient(), Part.ALL)}
    assert names == {"attempts", "checkpoints", "fence", "logs", "run.json"}
    delete(run, FakeClient(), Part.ALL)
    assert not (Path(store) / "stage1").exists()


def test_an_interrupted_deletion_leaves_no_lie_and_can_go_on(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(_self: object, _name: str = "") -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("goku.contract.store.Store.list", stops)
        with pytest.raises(KeyboardInterrupt):
            delete(run, FakeClient(), Part.ALL)
    assert run.exists()
    assert run.latest() is None or run.steps() == [20, 40]
    delete(run, FakeClient(), Part.ALL)
    assert not run.exists()


@pytest.mark.parametrize("part", Part)
def test_what_lives_is_left_alone(run: RunDir, part: Part) -> None:
    client = FakeClient(sightings={run.uri: Sighting(alive=True)})
    with pytest.raises(RunError, match="it is running"):
        doomed(run, client, part)
    with pytest.raises(RunError, match="it is running"):
        delete(run, client, part)
    attempt = made.attempt(run, Cause.RUNNING)
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=("pod-0",)))
    with pytest.raises(RunError, match="alive on pod-0"):
        delete(run, FakeClient(), part)
    assert run.steps() == [20, 40]
