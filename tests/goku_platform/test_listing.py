"""The runs of a store: one line each, and one look at the target for all."""

import time

import pytest

from goku.contract.attempts import Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.pod import Progress
from goku_platform.cluster.client import Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.jobs.state import RunState
from goku_platform.runs.at_once import at_once
from goku_platform.runs.listing import listing
from tests.goku_platform import made


class Counting(FakeClient):
    """Nobody asks after one run when all can be had at once."""

    def get(self, run_uri: str) -> Sighting:
        raise AssertionError(run_uri)


def test_every_run_with_its_state_and_the_active_ones_first(store: str) -> None:
    stopped, live = made.run(store, "stage1"), made.run(store, "stage2")
    made.run(store, "curate", data={"source": "s3://b/f"})
    made.attempt(stopped, Cause.YIELDED, last_step=17)
    attempt = made.attempt(live, Cause.RUNNING, started_at=time.time() + 50)
    beat = Progress(rank=0, pid=1, section="step", budget_seconds=9, step=5)
    pulse = Pulse(at=time.time() + 100, hosts=("pod-0",), progress=beat)
    Ledger(live).beat(attempt.number, pulse)
    client = Counting(sightings={live.uri: Sighting(alive=True)})
    lines = {line.name: line for line in listing(store, client)}
    assert next(iter(lines)) == "stage2"
    assert [lines[name].state for name in ("stage1", "stage2", "curate")] == [
        RunState.STOPPED,
        RunState.RUNNING,
        RunState.READY,
    ]
    assert (lines["stage1"].step, lines["stage2"].step, lines["curate"].step) == (17, 5, None)
    assert (lines["stage1"].target_step, lines["curate"].target_step) == (40, None)
    assert lines["stage2"].active_at == pulse.at


def test_a_run_that_cannot_be_read_is_a_line_too(store: str) -> None:
    made.run(store).store.write("run.json", b"{}")
    [line] = listing(store, FakeClient())
    assert (line.state, "cannot be read" in line.problem) == (RunState.FAILED, True)


def test_a_living_job_of_another_store_is_not_forgotten(store: str) -> None:
    client = FakeClient(
        sightings={
            "s3://other/stage9": Sighting(alive=True, waiting="2 more GPUs"),
            "s3://other/over": Sighting(alive=False),
        }
    )
    [line] = listing(store, client)
    assert (line.name, line.state, line.waiting) == ("stage9", RunState.QUEUED, "2 more GPUs")
    assert line.problem == "its run is not in this store"


def test_at_once_keeps_the_order_and_the_first_error() -> None:
    assert at_once(lambda one: one * 2, range(40)) == [one * 2 for one in range(40)]
    assert at_once(str, ()) == []
    with pytest.raises(ZeroDivisionError):
        at_once(lambda one: 1 // one, [1, 0, 2])
