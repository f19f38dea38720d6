"""The restart budget: which attempts at the end of the ledger count as having made nothing."""

from pathlib import Path

import pytest

from goku.contract.attempts import Ledger
from goku.contract.exits import EXIT_OF, Cause
from goku.contract.manifest import Manifest
from goku.contract.rundir import RunDir

CRASHED, KILLED, DONE = Cause.CRASHED, Cause.KILLED, Cause.DONE


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path / "one"))


def attempt(run: RunDir, cause: Cause, **update: int) -> None:
    ledger = Ledger(run)
    begun = ledger.open(host="here", nodes=1, processes_per_node=1)
    code = EXIT_OF.get(cause)
    ledger.close(begun.model_copy(update={"cause": cause, "exit_code": code, **update}))


@pytest.mark.parametrize(
    ("causes", "count"),
    [
        ((), 0),
        ((CRASHED, KILLED), 2),
        ((CRASHED, DONE), 0),
        ((CRASHED, Cause.YIELDED, CRASHED), 1),
        ((CRASHED, Cause.USER_ERROR, CRASHED), 1),  # a person mended something in between
        ((CRASHED, Cause.NO_PROGRESS), 0),  # and here too, or it would not be asked
        ((CRASHED, Cause.LOST), 2),
    ],
)
def test_the_count(run: RunDir, causes: tuple[Cause, ...], count: int) -> None:
    for cause in causes:
        attempt(run, cause)
    assert Ledger(run).fruitless() == count


def test_a_durable_step_ends_the_count(run: RunDir) -> None:
    attempt(run, CRASHED, first_step=10, last_step=15, durable_step=12)
    attempt(run, CRASHED, first_step=12, last_step=15, durable_step=12)
    assert Ledger(run).fruitless() == 1


def test_the_count_begins_anew_where_a_person_started_the_run_again(run: RunDir) -> None:
    attempt(run, CRASHED)
    attempt(run, KILLED)
    Ledger(run).allow()
    assert Ledger(run).fruitless() == 0
    attempt(run, CRASHED)
    assert Ledger(run).fruitless() == 1


def test_a_checkpoint_speaks_for_a_supervisor_that_vanished(run: RunDir) -> None:
    attempt(run, CRASHED)
    attempt(run, Cause.LOST)
    run.commit(
        Manifest(
            step=5, attempt=2, samples_seen=0, optimizer_steps=5, world_size=1, config_digest="",
            code_version="", created_at=0.0, tensors={}, files={},
        )
    )  # fmt: skip
    assert Ledger(run).fruitless() == 0
    attempt(run, CRASHED)
    assert Ledger(run).fruitless() == 1
