"""Job objects whose fields mislead: what they say, and what is so."""

from typing import Any

import pytest

from goku_platform.cluster.kube import conditions
from goku_platform.cluster.kube.conditions import Standing
from goku_platform.settings import Kind


def job(*held: tuple[str, str], spec: dict[str, Any] | None = None, **status: Any) -> Any:
    """A job object with conditions of a status each."""
    listed = [
        {"type": name, "status": value, "reason": "R", "message": "m"} for name, value in held
    ]
    return {"metadata": {}, "spec": spec or {}, "status": {"conditions": listed, **status}}


def test_a_resumed_trainjob_is_not_suspended_whatever_its_last_condition_is() -> None:
    resumed = job(("Suspended", "False"), spec={"suspend": False})
    assert conditions.standing(Kind.TRAINJOB, resumed) == Standing()


def test_suspension_is_read_from_the_wish_in_either_place() -> None:
    assert conditions.standing(Kind.JOBSET, job(spec={"suspend": True})).suspended
    policy = {"runPolicy": {"suspend": True}}
    assert conditions.standing(Kind.PYTORCHJOB, job(spec=policy)).suspended


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Kind.PYTORCHJOB, "Succeeded"),
        (Kind.TRAINJOB, "Complete"),
        (Kind.JOBSET, "Completed"),
        (Kind.JOB, "Complete"),
    ],
)
def test_each_kind_has_its_own_word_for_done(kind: Kind, word: str) -> None:
    assert conditions.standing(kind, job((word, "True"))) == Standing(finished=True)
    assert not conditions.standing(kind, job((word, "False"))).finished


def test_a_failed_job_says_why() -> None:
    failed = conditions.standing(Kind.JOB, job(("FailureTarget", "True"), ("Failed", "True")))
    assert failed == Standing(finished=True, failed=True, words="R: m")


def test_a_job_that_is_about_to_fail_is_not_finished() -> None:
    assert not conditions.standing(Kind.JOB, job(("FailureTarget", "True"))).finished


def test_a_pytorchjob_that_restarts_is_not_finished() -> None:
    restarting = job(("Created", "True"), ("Running", "False"), ("Restarting", "True"))
    assert conditions.standing(Kind.PYTORCHJOB, restarting) == Standing()


@pytest.mark.parametrize(
    ("deployment", "inner", "expected"),
    [
        ("Running", "RUNNING", Standing()),
        ("Complete", "SUCCEEDED", Standing(finished=True)),
        ("Complete", "FAILED", Standing(finished=True, failed=True, words="AppFailed: no")),
        ("Failed", "", Standing(finished=True, failed=True, words="AppFailed: no")),
    ],
)
def test_a_rayjob_has_no_conditions(deployment: str, inner: str, expected: Standing) -> None:
    status = {"jobDeploymentStatus": deployment, "jobStatus": inner}
    words = {"reason": "AppFailed", "message": "no"}
    found = {"metadata": {}, "spec": {}, "status": {**status, **words}}
    assert conditions.standing(Kind.RAYJOB, found) == expected


def test_a_job_without_a_status_has_just_been_made() -> None:
    assert conditions.standing(Kind.TRAINJOB, {"metadata": {}, "spec": {}}) == Standing()
