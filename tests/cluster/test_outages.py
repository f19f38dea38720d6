"""What breaks around a run: the store, the API server, an operator, a node, a second launch."""

import time

import pytest

from goku.contract.attempts import Ledger
from goku.contract.exits import Cause, Exit
from goku.contract.rundir import RunDir
from tests.cluster.tenant import Tenant

# Two minutes of refusals; of silence one, since every request then waits for its time limit.
OUTAGE_SECONDS = {"refusing": 120, "silent": 60}
READERS = {"refusing": "threads", "silent": "process"}


@pytest.mark.parametrize("how", OUTAGE_SECONDS)
def test_training_goes_on_while_the_store_is_away(tenant: Tenant, how: str) -> None:
    name = f"cut-off-{how}"
    ahead = ("data.prefetch_packs=100", "data.packs_per_step=2")
    tenant.launch(name, *ahead, f"parallel.readers={READERS[how]}", steps=100_000, interval=20)
    tenant.reach(name, 30)
    tenant.slow_down(name)
    uids = {pod["metadata"]["uid"] for pod in tenant.pods(name)}
    _committed_after(tenant, name, tenant.heartbeat(name).step or 0)  # no save is under way then
    with tenant.s3.away(frozen=how == "silent"):
        before = tenant.heartbeat(name).step or 0
        time.sleep(OUTAGE_SECONDS[how])
        after = tenant.heartbeat(name).step or 0
    assert after - before >= 10  # on what it had read ahead, with a save under way
    _committed_after(tenant, name, after)
    assert {pod["metadata"]["uid"] for pod in tenant.pods(name)} == uids
    assert len(tenant.attempts(name)) == 1
    log = tenant.goku("logs", name)
    assert "training waited" in log or "was not saved" in log
    tenant.goku("stop", name)
    assert tenant.attempts(name)[0].cause is Cause.YIELDED


def _committed_after(tenant: Tenant, name: str, step: int) -> None:
    """Wait for a checkpoint of a later step."""
    tenant.until(
        f"durable after {step}",
        lambda: (latest := tenant.run(name).latest()) is not None and latest.step > step,
        name=name,
    )


@pytest.mark.disruptive
def test_restarts_of_the_control_plane_disturb_nobody(tenant: Tenant) -> None:
    tenant.launch("steady", steps=300, interval=50)
    tenant.reach("steady", 3)
    tenant.cluster.chaos.restart_apiserver(down_seconds=5)
    tenant.cluster.chaos.restart_operator("training-operator")
    (only,) = tenant.done("steady")
    assert only.last_step == 300


@pytest.mark.disruptive
def test_a_silent_node_keeps_its_run(tenant: Tenant) -> None:
    tenant.launch("unheard", steps=400, interval=50)
    tenant.reach("unheard", 3)
    with tenant.cluster.chaos.silent_node():
        tenant.until("not ready", lambda: not _node_is_ready(tenant), seconds=90)
    (only,) = tenant.done("unheard")
    assert only.last_step == 400


def test_the_same_run_launched_twice(tenant: Tenant) -> None:
    tenant.launch("twice", steps=3000, interval=20)
    tenant.reach("twice", 2)
    tenant.slow_down("twice")
    second = tenant.start(*tenant.launch_arguments("twice", steps=3000, interval=20))
    assert second.returncode == 1
    assert "it is running" in second.stderr
    with tenant.neighbour("goku-elsewhere") as other:
        arguments = other.launch_arguments("twice", steps=3000, interval=20)
        refused = other.start(*arguments)
        assert refused.returncode == 1
        assert "which this target does not see" in refused.stderr
        other.goku(*arguments, "--force")
        _took_over(tenant, other)


def _took_over(tenant: Tenant, other: Tenant) -> None:
    """The first start ends as superseded and never comes back; the second one commits."""
    run = tenant.run("twice")
    # its successor takes it for lost until it has said itself how it ended
    tenant.until(
        "superseded", lambda: Ledger(run).get(1).cause is Cause.SUPERSEDED, seconds=60, name="twice"
    )
    assert Ledger(run).get(1).exit_code == Exit.SUPERSEDED
    step = tenant.until("a commit", lambda: _committed_by(run, 2), name="twice")
    assert step
    assert [a.number for a in Ledger(run).all()] == [1, 2]  # the first never came back
    other.goku("stop", "twice")


def test_a_stop_before_anything_ran_leaves_nothing(tenant: Tenant) -> None:
    absent = tenant.with_profile(image="goku.test/none:1", image_pull_policy="IfNotPresent")
    absent.launch("imageless")
    status = absent.until(
        "trouble with the image",
        lambda: (s := absent.status("imageless"))["trouble"] and s,
        name="imageless",
    )
    assert "image" in status["trouble"].lower()
    absent.goku("stop", "imageless")
    _gone(tenant, "imageless")
    assert tenant.attempts("imageless") == []


def test_a_stop_while_ranks_start_is_clean(tenant: Tenant) -> None:
    tenant.launch("early", steps=20)
    tenant.until("an attempt", lambda: tenant.attempts("early"), name="early")
    tenant.goku("stop", "early")
    _gone(tenant, "early")
    (attempt,) = tenant.attempts("early")
    assert (attempt.cause, attempt.exit_code) == (Cause.YIELDED, Exit.YIELDED)
    tenant.goku("resume", "early")
    assert [a.cause for a in tenant.done("early")] == [Cause.YIELDED, Cause.DONE]


def _gone(tenant: Tenant, name: str) -> None:
    assert tenant.pods(name) == []
    assert not tenant.cluster.exists("pytorchjob", name, namespace=tenant.namespace)


def _committed_by(run: RunDir, attempt: int) -> int | None:
    latest = run.latest()
    return latest.step if latest and latest.attempt == attempt else None


def _node_is_ready(tenant: Tenant) -> bool:
    return tenant.cluster.condition("node", "goku-node", "", "Ready")
