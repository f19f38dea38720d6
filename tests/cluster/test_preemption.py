"""A run that the cluster takes away and gives back ends with the bytes of an undisturbed one.

Every kind of job goes through it: an eviction in the middle, a checkpoint within the grace, the
whole gang again, and the same weights at the end. The default kind also through Kueue's preemption.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goku.contract.attempts import Attempt
from goku.contract.exits import Cause, Exit
from tests.cluster.queues import rival
from tests.cluster.tenant import Tenant

KINDS = ("pytorchjob", "trainjob", "jobset", "job")
STEPS = 60


@pytest.fixture(scope="module")
def undisturbed(tenant: Tenant) -> tuple[dict[int, float], dict[str, list[int]]]:
    """Losses and final bytes of a run that nothing happened to."""
    tenant.launch("straight", steps=STEPS)
    (attempt,) = tenant.done("straight")
    assert attempt.lost_steps == 0
    return tenant.losses("straight"), tenant.final_bytes("straight")


def test_kueue_preempts_for_a_higher_priority(tenant: Tenant, undisturbed: Any) -> None:
    low = tenant.with_profile(priority_class=tenant.queue.priority("low"))
    low.launch("low", steps=STEPS)
    low.reach("low", 5)
    tenant.cluster.apply(rival(tenant.queue, tenant.cluster.busybox, seconds=20))
    _saved_and_left(low.ended("low", 1))
    low.until("queued", lambda: low.status("low")["state"] == "queued", seconds=20, name="low")
    low.until("queued again, then done", lambda: _ended(tenant, "urgent"), name="low")
    first, second = low.done("low")
    _went_on(first, second)
    assert (low.losses("low"), low.final_bytes("low")) == undisturbed


@pytest.fixture
def node_disk() -> Iterator[Path]:
    """A folder of the node, which is this machine, open to the pods' user."""
    with tempfile.TemporaryDirectory(prefix="goku-node-disk-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evicted_pod_takes_the_gang_along_and_brings_it_back(
    tenant: Tenant, undisturbed: Any, kind: str
) -> None:
    name, place = f"evicted-{kind}", tenant.with_profile(kind=kind)
    place.launch(name, steps=STEPS)
    place.reach(name, 5)
    tenant.cluster.chaos.evict(tenant.namespace, place.pod(name, 1))
    _saved_and_left(place.ended(name, 1))
    first, second = place.done(name)
    _went_on(first, second)
    assert (place.losses(name), place.final_bytes(name)) == undisturbed
    assert place.status(name)["state"] == "done"


def test_a_pod_deleted_without_grace_costs_at_most_an_interval(
    tenant: Tenant, undisturbed: Any
) -> None:
    tenant.launch("torn", steps=STEPS, interval=10)
    tenant.reach("torn", 12)
    tenant.cluster.chaos.delete_now(tenant.namespace, tenant.pod("torn", 1))
    first = tenant.ended("torn", 1)
    # kubelets leave a pod two seconds all the same, which may be enough to save and leave
    assert first.cause in (Cause.LOST, Cause.KILLED, Cause.YIELDED)
    assert first.last_step is not None
    assert first.durable_step is not None
    assert first.lost_steps == first.last_step - first.durable_step
    assert first.lost_steps <= 10
    second = tenant.done("torn")[-1]
    assert second.first_step == first.durable_step
    assert tenant.losses("torn") == undisturbed[0]
    assert tenant.final_bytes("torn") == undisturbed[1]


def test_the_nodes_own_disks_have_what_the_store_has_not(
    tenant: Tenant, undisturbed: Any, node_disk: Path
) -> None:
    settings = (f"checkpoint.local_dir={node_disk}", "checkpoint.local_interval_steps=5")
    refused = tenant.start(*tenant.launch_arguments("refused", *settings))
    assert refused.returncode == Exit.USER_ERROR, refused.stdout
    assert (
        'restricted volume type "hostPath"' in refused.stderr
    )  # by the namespace's Pod Security level
    with tenant.neighbour(f"{tenant.namespace}-disks", restricted=False) as place:
        place.launch("disks", *settings, steps=STEPS, interval=50)
        place.reach("disks", 12)
        os.kill(place.rank("disks", 1), signal.SIGKILL)
        first, second = place.done("disks")
        assert (first.cause, first.durable_step) == (Cause.KILLED, 0)
        assert second.first_step in range(10, (first.last_step or 0) + 1, 5)
        losses, final = undisturbed
        assert place.losses("disks").items() <= losses.items()  # a killed rank leaves rows behind
        assert place.final_bytes("disks") == final


def _saved_and_left(attempt: Attempt) -> None:
    assert (attempt.cause, attempt.exit_code) == (Cause.YIELDED, Exit.YIELDED), attempt
    assert attempt.last_step == attempt.durable_step
    assert 0 < (attempt.last_step or 0) < STEPS


def _went_on(first: Attempt, second: Attempt) -> None:
    assert second.cause is Cause.DONE
    assert second.first_step == first.last_step
    assert first.lost_steps == second.lost_steps == 0


def _ended(tenant: Tenant, job: str) -> bool:
    return tenant.cluster.condition("job", job, tenant.namespace, "Complete")
