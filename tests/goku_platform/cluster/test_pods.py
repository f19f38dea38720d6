"""Pods in states that the recordings lack: evicted, restarted, beside a sidecar."""

from typing import Any

from goku_platform.cluster.kube import pods


def pod(
    name: str = "p-worker-0",
    *,
    rank: int = 0,
    phase: str = "Running",
    code: int | None = None,
    at: str = "2026-11-22T10:00:00Z",
    message: str = "",
    containers: tuple[str, ...] = ("pytorch",),
    **status: Any,
) -> Any:
    """One pod, whose first container ended with `code` if that is given."""
    ended = {"terminated": {"exitCode": code, "finishedAt": at, "message": message}}
    state = {"running": {}} if code is None else ended
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": at,
            "labels": {"training.kubeflow.org/replica-index": str(rank)},
        },
        "spec": {"containers": [{"name": one} for one in containers]},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": containers[0], "state": state, "restartCount": 0}],
            **status,
        },
    }


def test_the_rank_is_where_the_controller_puts_it() -> None:
    note = {"batch.kubernetes.io/job-completion-index": "3"}
    assert pods.index({"metadata": {"annotations": note}}) == 3
    assert pods.index(pod(rank=2)) == 2
    assert pods.index({"metadata": {"labels": {"ray.io/node-type": "head"}}}) == 0
    assert pods.index({"metadata": {"labels": {"ray.io/node-type": "worker"}}}) is None


def test_the_newest_pod_of_a_node_comes_first() -> None:
    old, new = pod(at="2026-11-22T10:00:00Z"), pod(at="2026-11-22T11:00:00Z")
    assert pods.newest_of([old, pod(rank=1), new], 0) == [new, old]


def test_a_pod_that_was_told_to_go_is_ending_until_it_has() -> None:
    told, over = pod(), pod(phase="Failed", code=143)
    for one in (told, over):
        one["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    assert pods.phases([told, over, pod()]) == {"Ending": 1, "Failed": 1, "Running": 1}


def test_a_container_put_beside_the_supervisor_is_not_mistaken_for_it() -> None:
    assert pods.container(pod(containers=("proxy", "node"))) == "node"
    assert pods.container(pod(containers=("ray-head", "proxy"))) == "ray-head"


def test_the_first_code_that_is_not_0_is_the_jobs() -> None:
    ended = [
        pod(code=0, at="2026-11-22T10:00:00Z"),
        pod(code=143, at="2026-11-22T10:02:00Z"),
        pod(code=134, at="2026-11-22T10:01:00Z"),
    ]
    assert pods.exit_code(ended) == 134
    assert pods.exit_code(ended[:1]) == 0
    assert pods.exit_code([pod()]) is None


def test_a_pod_that_saved_and_left_is_no_trouble() -> None:
    assert pods.trouble([pod(phase="Failed", code=143)]) == ""


def test_the_last_line_of_the_log_stands_in_for_the_reason() -> None:
    bad = pod(phase="Failed", code=1, message="Traceback ...\nValueError: bad shape\n")
    assert pods.trouble([bad]) == "p-worker-0: exit code 1: ValueError: bad shape"


def test_an_eviction_comes_before_the_code_it_caused() -> None:
    moved = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }
    evicted = pod(phase="Failed", code=137, conditions=[moved])
    assert pods.trouble([evicted]) == ("p-worker-0: EvictionByEvictionAPI: Eviction API: evicting")


def test_a_node_short_of_disk_is_named() -> None:
    evicted = pod(phase="Failed", reason="Evicted")
    evicted["status"]["message"] = "low on ephemeral-storage"
    assert pods.trouble([evicted]) == "p-worker-0: Evicted: low on ephemeral-storage"


def test_what_keeps_pods_from_starting_comes_first() -> None:
    stuck = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling"}}
    waiting = pod("p-worker-1", rank=1, phase="Pending")
    waiting["status"]["containerStatuses"][0]["state"] = stuck
    failed = pod(phase="Failed", code=1)
    assert pods.trouble([failed, waiting]) == "p-worker-1: ImagePullBackOff: Back-off pulling"


def test_long_messages_are_cut() -> None:
    bad = pod(phase="Failed", code=1, message="x" * 5000)
    assert len(pods.trouble([bad])) < 400
