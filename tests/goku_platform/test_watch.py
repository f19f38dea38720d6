"""Watching: every change once, from either side, until the run has ended."""

from collections.abc import Iterator
from itertools import islice

import pytest

from goku.contract.exits import Cause
from goku_platform.cluster.client import Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.errors import TargetError
from goku_platform.jobs.state import RunState
from goku_platform.runs.watch import watch
from goku_platform.settings import Settings
from tests.goku_platform import made


def test_the_targets_changes_are_seen_until_the_end(store: str) -> None:
    run = made.run(store)
    queued = Sighting(alive=True, waiting="2 more GPUs", queue_position=0)
    client = FakeClient(
        sightings={run.uri: queued},
        watched={run.uri: [Sighting(alive=True), Sighting(alive=False, exit_code=1)]},
    )
    states = [state.state for state in watch(run, client, Settings(), look_seconds=0.05)]
    assert states[0] in (RunState.QUEUED, RunState.STARTING, RunState.FAILED)  # the thread is fast
    assert states[-1] is RunState.FAILED
    assert len(states) == len(set(states))


def test_the_store_is_looked_at_meanwhile(store: str) -> None:
    """A target that reports nothing: the attempt and its checkpoint are only in the store."""
    run = made.run(store)
    client = FakeClient(sightings={run.uri: Sighting(alive=True)})
    states = watch(run, client, Settings(), look_seconds=0.01)
    assert next(states).state is RunState.STARTING
    made.attempt(run, Cause.RUNNING)
    assert next(states).state is RunState.RUNNING
    made.checkpoint(run, 20)
    training = next(states).training
    assert training is not None
    assert training.durable_step == 20


def test_a_run_that_is_over_is_shown_once(store: str) -> None:
    run = made.run(store)
    made.attempt(run, Cause.YIELDED)
    assert [state.state for state in watch(run, FakeClient(), Settings())] == [RunState.STOPPED]


class Unreachable(FakeClient):
    def watch(self, run_uri: str) -> Iterator[Sighting]:
        yield self.get(run_uri)
        raise TargetError("the API server", "it is gone", "Try again.")


def test_a_target_that_goes_away_ends_the_watch(store: str) -> None:
    run = made.run(store)
    client = Unreachable(sightings={run.uri: Sighting(alive=True)})
    with pytest.raises(TargetError, match="it is gone"):
        list(islice(watch(run, client, Settings(), look_seconds=5), 5))
