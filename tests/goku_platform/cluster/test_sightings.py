"""What people see of a job, from objects recorded on a real cluster (`recorded/`, one file a kind).

Recorded with training-operator 1.9.4, JobSet 0.12.0, Trainer 2.3.0 and Kueue 0.19.2 on Kubernetes
1.33.4; only the fields that are read were kept.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from goku_platform.cluster.kube.sighting import View, run_uri, sighting
from goku_platform.settings import Kind

_RECORDED = Path(__file__).with_name("recorded")
_SCENES: dict[Kind, Path] = {
    kind: _RECORDED / f"{kind}.json" for kind in Kind if kind is not Kind.RAYJOB
}


def view(kind: Kind, scene: str) -> View:
    """One recorded moment."""
    raw: dict[str, Any] = json.loads(_SCENES[kind].read_text())[scene]
    return View(**{**raw, "kind": Kind(raw["kind"])})


class Expected(NamedTuple):
    alive: bool = True
    exit_code: int | None = None
    pods: dict[str, int] | None = None  # None: as it was
    waiting: str = ""  # a part of it; "" means that it must be empty
    trouble: str = ""  # likewise
    position: int | None = None


_ALL = {
    "succeeded": Expected(alive=False, exit_code=0, pods={"Succeeded": 2}),
    "user-error": Expected(alive=False, exit_code=1, trouble="exit code 1: no such key"),
    "running": Expected(pods={"Running": 2}),
    "no-image": Expected(
        pods={"Pending": 2}, waiting="2 of 2 pods are starting", trouble="ErrImageNeverPull"
    ),
    "no-secret": Expected(
        pods={"Pending": 2}, waiting="2 of 2 pods are starting", trouble='secret "absent" not found'
    ),
    "unschedulable": Expected(
        pods={"Pending": 2}, waiting="2 of 2 pods have no node: 0/1 nodes are available"
    ),
    "account": Expected(
        pods={}, waiting="0 of 2 pods are made", trouble='serviceaccount "absent" not found'
    ),
    "pod-security": Expected(
        pods={},
        waiting="0 of 2 pods are made",
        trouble="The namespace's Pod Security level refuses the pod",
    ),
    "out-of-memory": Expected(trouble="out of memory (OOMKilled). Raise memory_gib_per_node"),
}
_QUEUED = {
    "admitted": Expected(pods={"Running": 2}),
    "queued": Expected(pods={}, waiting="insufficient unused quota for nvidia.com/gpu", position=1),
    "never-fits": Expected(
        pods={},
        waiting="queued in research: it can never start: ",
        position=0,  # Kueue lists it all the same
    ),
    "preempted": Expected(waiting="queued in research: preempted by a job of higher priority"),
    "preempted-queued": Expected(
        pods={}, waiting="queued in research: preempted by a job of higher priority: ", position=0
    ),
    "wrong-queue": Expected(pods={}, waiting="queued in nope: LocalQueue nope doesn't exist"),
}
_NEVER = (Kind.TRAINJOB, "no-secret")  # its runtime names the Secrets, not the job
_CASES = [
    *((kind, scene) for kind in _SCENES for scene in _ALL if (kind, scene) != _NEVER),
    *((kind, scene) for kind in _SCENES if kind is not Kind.JOB for scene in _QUEUED),
]


@pytest.mark.parametrize(("kind", "scene"), _CASES, ids=lambda part: str(part))
def test_a_recorded_moment(kind: Kind, scene: str) -> None:
    expected, seen = (_ALL | _QUEUED)[scene], sighting(view(kind, scene))
    assert (seen.alive, seen.exit_code) == (expected.alive, expected.exit_code)
    assert seen.queue_position == expected.position
    assert expected.waiting in seen.waiting
    assert bool(expected.waiting) == bool(seen.waiting), seen.waiting
    assert expected.trouble in seen.trouble
    assert bool(expected.trouble) == bool(seen.trouble), seen.trouble
    if expected.pods is not None:
        assert seen.pods == expected.pods


def test_no_recording_is_left_unread() -> None:
    recorded = {
        (kind, scene) for kind, file in _SCENES.items() for scene in json.loads(file.read_text())
    }
    assert recorded == set(_CASES)


def test_the_place_names_the_object() -> None:
    assert sighting(view(Kind.JOBSET, "running")).place == "JobSet client-dev/lone"


def test_a_job_is_told_from_its_namesake_by_the_uri() -> None:
    job = view(Kind.JOB, "running").job
    assert job is not None
    assert run_uri(job) == "s3://bucket/runs/lone"


def test_a_job_that_is_deleted_lives_as_long_as_its_pods() -> None:
    running = view(Kind.JOB, "running")
    assert running.job is not None
    metadata = {**running.job["metadata"], "deletionTimestamp": "2026-11-22T19:00:00Z"}
    ending = running._replace(job={**running.job, "metadata": metadata})
    assert sighting(ending).alive is True
    assert sighting(ending).place == "Job client-dev/lone, being deleted"
    gone = sighting(ending._replace(pods=()))
    assert (gone.alive, gone.exit_code, gone.waiting) == (False, None, "")


def test_pods_whose_job_is_gone_are_still_alive() -> None:
    orphans = view(Kind.JOBSET, "running")._replace(kind=None, job=None)
    assert sighting(orphans).alive is True
    assert sighting(orphans).trouble == "2 pods are left of a job that is gone"
    assert sighting(orphans._replace(pods=())).alive is False


def test_a_failed_job_whose_pods_are_gone_tells_its_reason() -> None:
    failed = view(Kind.JOBSET, "user-error")._replace(pods=())
    seen = sighting(failed)
    assert (seen.alive, seen.exit_code) == (False, None)
    assert "FailJobSetFailurePolicyAction" in seen.trouble


def test_a_done_job_whose_pods_are_gone_has_ended_with_0() -> None:
    assert sighting(view(Kind.PYTORCHJOB, "succeeded")._replace(pods=())).exit_code == 0


def test_pods_that_are_missing_are_counted() -> None:
    running = view(Kind.PYTORCHJOB, "running")
    assert sighting(running._replace(pods=running.pods[:1])).waiting == "1 of 2 pods are made"


def test_a_warning_from_before_the_job_is_not_its_own() -> None:
    refused = view(Kind.JOB, "account")
    assert refused.job is not None
    metadata = {**refused.job["metadata"], "creationTimestamp": "2036-01-01T00:00:00Z"}
    later = refused._replace(job={**refused.job, "metadata": metadata})
    assert sighting(later).trouble == ""
