"""Events: whose they are, both of their forms, and which of them matters."""

from typing import Any

import pytest

from goku_platform.cluster.kube import events


def raw(reason: str, message: str = "m", at: str = "2026-11-22T10:00:00Z", **more: Any) -> Any:
    about = {"kind": "Pod", "name": "run-worker-0"}
    return {
        "involvedObject": about,
        "metadata": {"creationTimestamp": at},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": at,
        **more,
    }


@pytest.mark.parametrize(
    "name",
    [
        "stage2",
        "stage2-worker-0",
        "stage2-worker-127",
        "stage2-node-0",
        "stage2-node-0-12-x7k2p",
        "stage2-3-x7k2p",
        "stage2-x7k2p-head-8dd7z",
        "pytorchjob-stage2-3f2a1",
        "trainjob-stage2-3f2a1",
    ],
)
def test_what_controllers_name_after_a_run_is_its_own(name: str) -> None:
    assert events.of_run("stage2").fullmatch(name)


@pytest.mark.parametrize(
    "name",
    ["stage20", "stage2-fast", "stage2-fast-worker-0", "stage2-large-worker-0", "my-stage2"],
)
def test_what_is_named_after_another_run_is_not(name: str) -> None:
    assert not events.of_run("stage2").fullmatch(name)


def test_a_series_counts_and_dates_its_last_time() -> None:
    new = raw(
        "FailedScheduling",
        lastTimestamp=None,
        eventTime="2026-11-22T10:00:00.000000Z",
        series={"count": 9, "lastObservedTime": "2026-11-22T11:00:00.000000Z"},
    )
    seen = events.event(new)
    assert (seen.times, seen.at) == (9, events.seconds("2026-11-22T11:00:00Z"))
    assert (seen.about, seen.warning) == ("Pod/run-worker-0", True)


def test_the_oldest_warning_that_matters_is_told() -> None:
    listed = [
        raw("FailedMount", "second", at="2026-11-22T10:05:00Z"),
        raw("FailedCreate", "pods is forbidden: exceeded quota: q", at="2026-11-22T10:04:00Z"),
        raw("FailedScheduling", at="2026-11-22T10:03:00Z"),
        raw("Failed", 'Invalid value: "null"', at="2026-11-22T10:02:00Z"),
        raw("PodFailurePolicy", "failed with exit code 143 matching", at="2026-11-22T10:02:00Z"),
        raw("FailedCreate", "of the job before", at="2026-11-22T09:00:00Z"),
    ]
    since = events.seconds("2026-11-22T10:00:00Z")
    assert events.first_warning(listed, since=since) == (
        "Pod/run-worker-0: FailedCreate: The namespace's ResourceQuota is used up: "
        "pods is forbidden: exceeded quota: q"
    )
    assert events.first_warning(listed[2:5], since=since) == ""
