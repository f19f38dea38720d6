"""What a diff leaves out, and which rights a job needs."""

from dataclasses import replace

from goku_platform.cluster.kube import objects, rights
from goku_platform.jobs.plan import plan
from goku_platform.settings import Kind, Settings
from tests.goku_platform import made


def test_only_what_we_wrote_is_compared() -> None:
    live = {
        "kind": "PyTorchJob",
        "metadata": {
            "name": "a",
            "uid": "1",
            "managedFields": [],
            "ownerReferences": [{"kind": "Job", "name": "a", "uid": "2"}],
            "annotations": {"goku.platform/launch": "ab12", "goku.platform/run-uri": "s3://b/a"},
        },
        "spec": {"runPolicy": {"suspend": True, "cleanPodPolicy": "Running"}, "tags": ["x"]},
        "status": {"conditions": []},
    }
    assert objects.plain(live) == {
        "kind": "PyTorchJob",
        "metadata": {"name": "a", "annotations": {"goku.platform/run-uri": "s3://b/a"}},
        "spec": {"runPolicy": {"cleanPodPolicy": "Running"}, "tags": ["x"]},
    }
    assert "status" in live


def test_what_a_queue_adds_to_a_trainjob_is_not_compared() -> None:
    mine = {"manager": "goku.platform/cli", "trainingRuntimeSpec": {"a": 1}}
    queues = {"manager": "kueue.x-k8s.io/manager", "trainingRuntimeSpec": {"b": 2}}
    made, admitted = (
        {"metadata": {}, "spec": {"runtimePatches": patches}}
        for patches in ([{**mine, "time": "10:00"}], [{**mine, "time": "11:00"}, queues])
    )
    assert objects.plain(made) == objects.plain(admitted)


def needed(kind: Kind, queue: str | None = None) -> set[str]:
    spec = plan(made.config("s3://bucket/runs"), Settings(), code_version="abc")
    placed = replace(spec, placement=replace(spec.placement, kind=kind, queue=queue))
    return {str(right) for right in rights.needed(placed)}


def test_rights_are_those_of_the_kind_and_no_more() -> None:
    plain = needed(Kind.JOBSET)
    assert "create jobsets.jobset.x-k8s.io" in plain
    assert "get pods/log" in plain
    assert not any("services" in right or "workloads" in right for right in plain)
    assert not any(
        right.startswith(("create pods", "get secrets", "list secrets")) for right in plain
    )
    assert "patch services" in needed(Kind.JOB)
    assert "watch workloads.kueue.x-k8s.io" in needed(Kind.JOBSET, queue="q")
