"""What breaks inside a run: ranks that die, hang or fail for good, and what becomes of the gang."""

import os
import signal
import time
from contextlib import suppress

from goku.contract.exits import Cause, Exit
from goku.contract.rundir import LOGS
from tests.cluster.daemons import ClusterError
from tests.cluster.tenant import Tenant


def test_a_killed_rank_brings_the_whole_gang_back(tenant: Tenant) -> None:
    tenant.launch("killed", steps=40, interval=10)
    tenant.reach("killed", 12)
    before = {pod["metadata"]["uid"] for pod in tenant.pods("killed")}
    os.kill(tenant.rank("killed", 1), signal.SIGKILL)
    first = tenant.ended("killed", 1)
    assert (first.cause, first.exit_code) == (Cause.KILLED, Exit.OUT_OF_MEMORY)
    assert "rank 1" in first.message
    second = tenant.done("killed")[-1]
    assert second.first_step == first.durable_step
    after = {pod["metadata"]["uid"] for pod in tenant.pods("killed")}
    assert not before & after  # both pods are new


def test_a_pod_out_of_memory_is_told_with_the_setting(tenant: Tenant) -> None:
    small = tenant.with_profile(memory_gib_per_node=2)
    small.launch("starved", steps=2000, interval=500)
    small.reach("starved", 3)
    small.slow_down("starved")
    fill = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=1000; sleep 1"
    pod = small.pod("starved", 1)
    hog = f"({fill}) & exec python3 -c 'x = bytearray(600 << 20); import time; time.sleep(5)'"
    with suppress(ClusterError):  # the pod ends, and the command in it
        tenant.cluster.exec(tenant.namespace, pod, "sh", "-c", hog)
    first = small.ended("starved", 1)
    assert (first.cause, first.exit_code) == (Cause.OUT_OF_MEMORY, Exit.OUT_OF_MEMORY), first
    assert "data.pack_tokens" in first.message
    small.goku("stop", "starved", "--now")


def test_a_hung_rank_is_found_and_all_stacks_are_kept(tenant: Tenant) -> None:
    # no save is near: it has a longer budget
    tenant.launch("hung", "health.step_budget_seconds=8", steps=100, interval=60)
    tenant.reach("hung", 5)
    os.kill(tenant.rank("hung", 1), signal.SIGSTOP)
    stopped = time.time()
    first = tenant.ended("hung", 1)
    assert (first.cause, first.exit_code) == (Cause.HUNG, Exit.HUNG)
    assert first.ended_at is not None
    assert first.ended_at - stopped < 8 + 20
    kept = tenant.run("hung").store.list(f"{LOGS}/attempt-0001")
    assert {"stacks-00000.txt", "stacks-00001.txt"} <= set(kept)
    # let go on to write its stacks, the group may have committed once more before it was killed
    assert (tenant.done("hung")[-1].first_step or 0) >= (first.durable_step or 0)


def test_a_users_error_is_final_and_told(tenant: Tenant) -> None:
    tenant.launch("diverging", "training.learning_rate=1e30", "training.warmup_steps=0")
    first = tenant.ended("diverging", 1)
    assert first.cause is Cause.USER_ERROR
    assert 1 <= (first.exit_code or 0) <= 63
    _stays_over(tenant, "diverging", 1)
    status = tenant.status("diverging")
    assert status["state"] == "failed"
    assert status["attempts"][-1]["message"] == first.message != ""


def test_three_attempts_without_a_durable_step_are_the_last(tenant: Tenant) -> None:
    tenant.launch("fruitless", steps=2000, interval=1000)
    for number in (1, 2, 3):
        tenant.reach("fruitless", 1, attempt=number)
        os.kill(tenant.rank("fruitless", number % 2), signal.SIGKILL)
        assert tenant.ended("fruitless", number).cause is Cause.KILLED
    last = tenant.ended("fruitless", 4)
    assert (last.cause, last.exit_code) == (Cause.NO_PROGRESS, Exit.NO_PROGRESS)
    _stays_over(tenant, "fruitless", 4)
    assert tenant.status("fruitless")["state"] == "failed"


def _stays_over(tenant: Tenant, name: str, attempts: int) -> None:
    """No pod is left running, and none comes back."""
    tenant.quiet(name)
    time.sleep(10)
    tenant.quiet(name, seconds=5)
    assert len(tenant.attempts(name)) == attempts
