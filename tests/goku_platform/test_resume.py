"""Resume, stop and wait, against a client in memory."""

import time

import pytest

from goku.config import ConfigError
from goku.contract.attempts import Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.pod import Progress
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Check
from goku_platform.cluster.fake import FakeClient
from goku_platform.errors import PreflightError, RunError
from goku_platform.runs import wait
from goku_platform.runs.existing import look
from goku_platform.runs.resume import resume
from goku_platform.runs.stop import stop
from goku_platform.settings import Kind, Settings
from tests.goku_platform import made


def again(run: RunDir, client: FakeClient, *overrides: str) -> None:
    resume(run, Settings(), client, code_version="abc", overrides=overrides)


@pytest.mark.parametrize(
    "cause", [Cause.YIELDED, Cause.CRASHED, Cause.USER_ERROR, Cause.NO_PROGRESS, Cause.RUNNING]
)
def test_every_end_but_done_may_be_resumed(store: str, cause: Cause) -> None:
    run, client = made.run(store), FakeClient()
    made.attempt(run, cause)
    again(run, client)
    assert [spec.run_uri for spec in client.applied] == [run.uri]


def test_a_run_without_any_attempt_may_be_resumed(store: str) -> None:
    run, client = made.run(store), FakeClient()
    again(run, client)
    assert len(client.applied) == 1


def test_done_and_running_are_refused(store: str) -> None:
    run, client = made.run(store), FakeClient()
    again(run, client)
    with pytest.raises(RunError, match="it is running"):
        again(run, client)
    client.end(run.uri, 0)
    assert look(run, client).way_on.startswith("Continue it: goku-platform resume stage1,")
    made.attempt(run, Cause.DONE)
    with pytest.raises(RunError, match=r"it is done\. .* launch it again with --force"):
        again(run, client)
    assert look(run, client).way_on.startswith("It is done. Add --force to do what is new")
    assert len(client.applied) == 1


def test_the_world_and_how_it_is_saved_may_change_and_nothing_else(store: str) -> None:
    run, client = made.run(store), FakeClient()
    digest = run.config().digest()
    again(run, client, "parallel.processes_per_node=1")
    assert client.applied[0].processes_per_node == 1
    assert run.config().parallel.processes_per_node == 1
    assert run.config().digest() == digest
    client.end(run.uri, 143)
    again(run, client, "checkpoint.background=false")
    assert run.config().checkpoint.background is False
    assert run.config().digest() == digest
    client.end(run.uri, 143)
    with pytest.raises(ConfigError, match=r"only parallel.\*, checkpoint.\*, health.\* may"):
        again(run, client, "training.steps=7")
    with pytest.raises(ConfigError, match="packs_per_step"):  # checks across sections still hold
        again(run, client, "parallel.processes_per_node=3")


def test_a_run_directory_keeps_what_it_computes(store: str) -> None:
    run = made.run(store)
    other = made.config(store, training={"steps": 7})
    with pytest.raises(ConfigError, match="keeps what it computes"):
        run.reshape(other)


def test_stop_returns_when_the_run_has_ended(store: str) -> None:
    run, client = made.run(store), FakeClient()
    again(run, client)
    stop(run, client)
    assert client.stopped == [run.uri]
    with pytest.raises(RunError, match="not alive"):
        stop(run, client)


def test_stop_gives_up_waiting_but_not_the_run(store: str) -> None:
    run, client = made.run(store), FakeClient(ends_on_stop=False)
    again(run, client)
    with pytest.raises(RunError, match=r"still saving after 0\.1 s"):
        stop(run, client, timeout_seconds=0.1)
    assert client.get(run.uri).alive


def test_wait_tells_how_it_ended(store: str) -> None:
    run, client = made.run(store), FakeClient()
    client.lines[run.uri] = ["step 1", "step 2"]
    client.end(run.uri, 134)
    assert list(wait.follow(run, client)) == ["step 1", "step 2"]
    assert client.followed == [run.uri]
    assert wait.exit_code(run, client) == 134
    client.end(run.uri, -9)
    assert wait.exit_code(run, client) == 137


def test_without_the_process_the_ledger_tells(store: str) -> None:
    run, client = made.run(store), FakeClient()
    assert wait.exit_code(run, client) == 1
    made.attempt(run, Cause.YIELDED)
    assert wait.exit_code(run, client) == 143


def test_a_person_is_on_record_for_the_next_attempt(store: str) -> None:
    run, client = made.run(store), FakeClient()
    made.attempt(run, Cause.USER_ERROR)
    assert Ledger(run).final() is not None
    again(run, client)
    assert Ledger(run).final() is None


def test_a_refusal_leaves_no_mark(store: str) -> None:
    run = made.run(store)
    made.attempt(run, Cause.USER_ERROR)
    client = FakeClient(checks=(Check("queue", False, "queue q: it does not exist", "Mend it."),))
    with pytest.raises(PreflightError, match="queue q: it does not exist"):
        again(run, client, "parallel.processes_per_node=1")
    assert Ledger(run).final() is not None
    assert run.config().parallel.processes_per_node == 2


def test_another_kind_and_what_came_of_it(store: str) -> None:
    run, client = made.run(store), FakeClient()
    made.checkpoint(run, 20)
    made.attempt(run, Cause.YIELDED)
    begun = resume(run, Settings(kind=Kind.JOB), client, code_version="abc")
    assert (begun.from_step, begun.spec.placement.kind) == (20, Kind.JOB)
    assert client.applied[0].placement.kind is Kind.JOB


def test_a_run_that_is_alive_elsewhere_needs_force(store: str) -> None:
    run, client = made.run(store), FakeClient()
    attempt = made.attempt(run, Cause.RUNNING)
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=("pod-0",)))
    with pytest.raises(RunError, match=r"alive on pod-0, .*resume stage1 --force"):
        again(run, client)
    resume(run, Settings(), client, code_version="abc", force=True)
    assert len(client.applied) == 1


def test_stop_says_where_else_a_run_is_alive(store: str) -> None:
    run, client = made.run(store), FakeClient()
    attempt = made.attempt(run, Cause.RUNNING)
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=("pod-0",)))
    with pytest.raises(RunError, match=r"alive on pod-0, .* as the user who started it\.$"):
        stop(run, client)
    assert client.stopped == []


def test_stop_now_closes_the_record_that_nobody_else_can(store: str) -> None:
    run, client = made.run(store), FakeClient()
    again(run, client)
    attempt = made.attempt(run, Cause.RUNNING)
    beat = Progress(
        rank=0, pid=1, section="step", budget_seconds=9, first_step=0, step=27, durable_step=20
    )
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=("pod-0",), progress=beat))
    stop(run, client, now=True)
    assert client.killed == [run.uri]
    closed = Ledger(run).get(attempt.number)
    assert (closed.cause, closed.lost_steps, closed.last_step) == (Cause.KILLED, 7, 27)
    again(run, client)  # its pulse is fresh, and yet nothing of it lives


def test_stop_leaves_a_record_that_the_supervisor_closed(store: str) -> None:
    run, client = made.run(store), FakeClient()
    again(run, client)
    made.attempt(run, Cause.YIELDED, message="asked to stop")
    stop(run, client)
    assert Ledger(run).get(1).message == "asked to stop"


class Late(FakeClient):
    """A controller that makes one more pod while the first are being killed."""

    def stop(self, run_uri: str, *, now: bool = False) -> None:
        self.ends_on_stop = bool(self.killed)
        super().stop(run_uri, now=now)


def test_stop_now_kills_what_was_made_meanwhile(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goku_platform.runs.stop._AGAIN_SECONDS", 0.01)
    run, client = made.run(store), Late()
    again(run, client)
    stop(run, client, now=True)
    assert client.killed == [run.uri, run.uri]
