"""Workloads in states that the recordings lack."""

from typing import Any

import pytest

from goku_platform.cluster.kube import kueue


def workload(*held: tuple[str, str, str], active: bool = True) -> Any:
    conditions = [
        {"type": name, "status": status, "reason": reason, "message": "m"}
        for name, status, reason in held
    ]
    return {"spec": {"queueName": "q", "active": active}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("found", "waiting"),
    [
        (workload(), "queued in q: not looked at yet"),
        (
            workload(("QuotaReserved", "True", "QuotaReserved"), ("Admitted", "False", "NoChecks")),
            "queued in q: quota is reserved, the queue's admission checks are not done",
        ),
        (
            workload(
                ("QuotaReserved", "False", "Pending"), ("Evicted", "True", "PodsReadyTimeout")
            ),
            "queued in q: put back because not all pods became ready in time: m",
        ),
        (
            workload(("Evicted", "True", "Novel"), ("QuotaReserved", "True", "QuotaReserved")),
            "queued in q: evicted: Novel",
        ),
        (workload(active=False), "deactivated in Kueue: it waits until someone resumes it"),
    ],
)
def test_why_it_waits(found: Any, waiting: str) -> None:
    assert kueue.queued(found) == kueue.Queued(admitted=False, waiting=waiting)


def test_a_workload_admitted_again_is_admitted() -> None:
    found = workload(("Admitted", "True", "Admitted"), ("Evicted", "False", "Preempted"))
    assert kueue.queued(found) == kueue.Queued(admitted=True)


def test_the_position_is_among_all_that_share_the_quota() -> None:
    line = [
        {"metadata": {"name": "a"}, "positionInClusterQueue": 3, "positionInLocalQueue": 0},
        {"metadata": {"name": "b"}, "positionInClusterQueue": 7, "positionInLocalQueue": 1},
    ]
    assert kueue.position(line, "b") == 7
    assert kueue.position(line, "c") is None
