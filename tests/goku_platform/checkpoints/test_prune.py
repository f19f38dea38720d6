"""Prune: the rule, what no rule may touch, and what is asked first."""

import time

import pytest

from goku.contract.attempts import Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.pod import Progress
from goku.contract.retention import Retention
from goku.contract.rundir import RunDir
from goku_platform.cluster.fake import FakeClient
from goku_platform.runs.checkpoints.prune import plan, prune
from goku_platform.runs.checkpoints.verify import chosen, verified
from tests.goku_platform import made
from tests.goku_platform.command import Call

LAST = Retention(last=1)


@pytest.fixture
def run(store: str) -> RunDir:
    made_run = made.run(store)
    for step in (10, 20, 30, 40):
        made.checkpoint(made_run, step)
    return made_run


def given_up(run: RunDir, rule: Retention = LAST) -> list[int]:
    return [fate.step for fate in plan(run, FakeClient(), rule) if not fate.keep]


def test_the_rule_keeps_the_newest_and_every_nth(run: RunDir) -> None:
    assert given_up(run) == [10, 20, 30]
    assert given_up(run, Retention(last=2, every=20)) == [10]
    assert run.steps() == [10, 20, 30, 40]


def test_only_what_was_agreed_to_goes(run: RunDir) -> None:
    assert prune(run, FakeClient(), LAST, [10, 40]) == (10,)
    assert run.steps() == [20, 30, 40]


def test_what_a_broken_save_left_goes_once_the_run_is_dead(run: RunDir) -> None:
    run.checkpoint(50).write("rank-0.bin", b"half")
    made.attempt(run, Cause.CRASHED)
    assert given_up(run, Retention(last=9)) == [50]
    running = made.attempt(run, Cause.RUNNING)
    Ledger(run).close(running.model_copy(update={"started_at": time.time()}))
    assert given_up(run, Retention(last=9)) == []
    Ledger(run).close(running.model_copy(update={"started_at": time.time() - 3600}))
    assert given_up(run, Retention(last=9)) == [50]
    Ledger(run).beat(running.number, Pulse(at=time.time(), hosts=("elsewhere",)))
    assert given_up(run, Retention(last=9)) == []


def test_the_step_that_the_running_attempt_began_at_stays(run: RunDir) -> None:
    running = made.attempt(run, Cause.RUNNING)
    progress = Progress(rank=0, pid=1, section="step", budget_seconds=60, step=41, first_step=20)
    Ledger(run).beat(running.number, Pulse(at=time.time(), hosts=("elsewhere",), progress=progress))
    assert given_up(run) == [10, 30]


def test_the_target_of_latest_stays(run: RunDir) -> None:
    run.store.write("LATEST", b'{"attempt": 1, "step": 30}')
    assert given_up(run) == [10, 20]
    run.store.write("LATEST", b"not json")
    assert given_up(run) == [10, 20, 30]


def test_a_pinned_one_and_the_only_verified_one_stay(run: RunDir) -> None:
    run.pin(10, "stage3")
    verified(run, chosen(run, step=20))
    assert given_up(run) == [30]
    assert plan(run, FakeClient(), LAST)[0].why == "pinned by stage3"


def test_the_only_complete_one_stays(run: RunDir) -> None:
    for step in (20, 30, 40):
        run.checkpoint(step).write("rank-0.bin", b"short")
    assert prune(run, FakeClient(), LAST, [10, 20, 30, 40]) == (20, 30, 40)
    assert [manifest.step for manifest in run.complete()] == [10]


def test_the_command_shows_and_asks(run: RunDir, goku: Call) -> None:
    refused = goku("ckpt", "prune", "stage1", "--keep-last", "3")
    assert (refused.code, "delete  step 10" in refused.out) == (1, True)
    assert "Agree in advance: --yes" in refused.err
    assert run.steps() == [10, 20, 30, 40]
    done = goku("ckpt", "prune", "stage1", "--keep-last", "3", "--yes", "--json")
    assert done.json["deleted"] == [10]
    assert [fate["keep"] for fate in done.json["plan"]] == [False, True, True, True]
    again = goku("ckpt", "prune", "stage1", "--keep-last", "3")
    assert again.out.endswith("stage1: deleted nothing\n")
