"""The checks alone: all of them, whatever failed before, and with or without a particular run."""

from goku.config import RunConfig
from goku_platform.cluster.client import Check
from goku_platform.cluster.fake import FakeClient
from goku_platform.errors import TargetError
from goku_platform.jobs.spec import JobSpec
from goku_platform.runs.doctor import doctor
from goku_platform.settings import Settings
from tests.goku_platform import made


def verdicts(config: RunConfig, client: FakeClient, *, run: bool = True) -> dict[str, bool | None]:
    report = doctor(config, Settings(), client, code_version="abc", run=run)
    return {check.name: check.ok for check in report.checks}


def test_every_check_of_a_run_though_the_first_fails(store: str) -> None:
    quota = Check("quota", None, "no right to look")
    found = verdicts(made.config(store, "stage2"), FakeClient(checks=(quota,)))
    assert found == {
        "name": True,
        "latents": False,
        "start": False,
        "job": True,
        "saves": None,
        "kind": True,
        "quota": None,
        "store": True,
    }


def test_a_name_that_is_taken(store: str) -> None:
    made.run(store)
    assert verdicts(made.config(store), FakeClient())["name"] is False


def test_without_a_preset_only_the_place_is_checked(store: str) -> None:
    made.run(store)  # of the name that lends its shape
    assert verdicts(made.config(store), FakeClient(), run=False) == {
        "kind": True,
        "api": True,
        "store": True,
    }


class Unreachable(FakeClient):
    def place(self, spec: JobSpec) -> tuple[JobSpec, str]:
        raise TargetError("context c", "its server does not answer", "Is the VPN up?")


def test_a_target_that_does_not_answer_is_one_failed_check(store: str) -> None:
    found = doctor(made.config(store), Settings(), Unreachable(), code_version="", run=False)
    assert found.failed == (
        Check("target", False, "context c: its server does not answer", "Is the VPN up?"),
    )


def test_a_node_that_is_too_small(store: str) -> None:
    settings = Settings(gpus_per_node=1)
    found = doctor(made.config(store), settings, FakeClient(), code_version="", run=True)
    assert [check.name for check in found.failed] == ["plan"]


def test_a_store_that_cannot_be_opened() -> None:
    found = verdicts(made.config("nope://bucket"), FakeClient())
    assert (found["name"], found["store"]) == (False, False)
