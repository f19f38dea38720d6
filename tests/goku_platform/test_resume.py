"""Resume, stop and wait, against a client in memory."""

import pytest

from goku.config import ConfigError
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku_platform.cluster.fake import FakeClient
from goku_platform.cluster.kubernetes import KubernetesClient
from goku_platform.errors import RunError, TargetError
from goku_platform.runs import wait
from goku_platform.runs.resume import resume
from goku_platform.runs.stop import stop
from goku_platform.settings import Settings
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
    made.attempt(run, Cause.DONE)
    with pytest.raises(RunError, match="it is done"):
        again(run, client)
    assert len(client.applied) == 1


def test_only_the_world_may_change(store: str) -> None:
    run, client = made.run(store), FakeClient()
    digest = run.config().digest()
    again(run, client, "parallel.processes_per_node=1")
    assert client.applied[0].processes_per_node == 1
    assert run.config().parallel.processes_per_node == 1
    assert run.config().digest() == digest
    client.end(run.uri, 143)
    with pytest.raises(ConfigError, match=r"only parallel.\* may change"):
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


def test_kubernetes_says_how_to_go_on(store: str) -> None:
    run, client = made.run(store), KubernetesClient()
    with pytest.raises(TargetError, match=r"render PRESET --freeze \| kubectl apply -f -"):
        resume(run, Settings(), client, code_version="abc")
    with pytest.raises(TargetError, match="kubectl delete pytorchjob stage1"):
        stop(run, client)
    assert client.get(run.uri).alive is None
