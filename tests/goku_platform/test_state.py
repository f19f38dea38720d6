"""The table of states has one answer for everything that can be seen."""

import itertools

import pytest

from goku.contract.exits import Cause
from goku_platform.jobs.state import WORDS, RunState, Wait, state_of


@pytest.mark.parametrize(
    ("cause", "alive", "wait"), list(itertools.product([None, *Cause], [True, False, None], Wait))
)
def test_every_combination_has_a_row(cause: Cause | None, alive: bool | None, wait: Wait) -> None:
    row = state_of(cause, alive=alive, wait=wait)
    assert row.advice
    if cause is Cause.DONE:
        assert row.state is RunState.DONE
    elif alive:
        waits = {Wait.QUEUE: RunState.QUEUED, Wait.PODS: RunState.PENDING}
        assert row.state is waits.get(wait, row.state)
        assert (row.state in waits.values()) == (wait in waits)
    elif alive is False:
        assert row.state not in (RunState.STARTING, RunState.RUNNING)


def test_every_state_can_be_said() -> None:
    assert set(WORDS) == set(RunState)


@pytest.mark.parametrize(
    ("cause", "alive", "state"),
    [
        (None, False, RunState.READY),
        (None, True, RunState.STARTING),
        (Cause.RUNNING, True, RunState.RUNNING),
        (Cause.RUNNING, None, RunState.RUNNING),
        (Cause.RUNNING, False, RunState.INTERRUPTED),
        (Cause.CRASHED, True, RunState.STARTING),
        (Cause.CRASHED, False, RunState.INTERRUPTED),
        (Cause.YIELDED, False, RunState.STOPPED),
        (Cause.USER_ERROR, False, RunState.FAILED),
        (Cause.NO_PROGRESS, None, RunState.FAILED),
        (Cause.SUPERSEDED, False, RunState.FAILED),
        (Cause.DONE, False, RunState.DONE),
        (Cause.DONE, True, RunState.DONE),
    ],
)
def test_states(cause: Cause | None, alive: bool | None, state: RunState) -> None:
    assert state_of(cause, alive=alive).state is state


def test_a_supervisor_that_could_not_begin() -> None:
    assert state_of(None, alive=False, exit_code=1).state is RunState.FAILED
    assert state_of(None, alive=False, exit_code=0).state is RunState.READY
