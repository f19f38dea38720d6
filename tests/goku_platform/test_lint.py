"""The rules that a job must obey: a fatal one refuses it, an estimate only warns."""

from dataclasses import replace

import pytest

from goku_platform.errors import LintError
from goku_platform.jobs.estimate import Estimate
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import lint
from goku_platform.settings import Settings
from tests.goku_platform import made

QUICK = Estimate(parameters=1, save_seconds=1.0, pause_seconds=1.0)


def spec(**settings: object) -> JobSpec:
    config = made.config("s3://bucket/runs")
    return plan(config, Settings.build({"image": "goku:1", **settings}), code_version="")


def test_a_preset_breaks_no_rule() -> None:
    assert lint.check(spec(), QUICK) == ()
    assert not list(lint.lint_cluster(spec()))


def test_grace_must_exceed_the_stop_budget() -> None:
    with pytest.raises(LintError, match=r"grace_seconds=60: it must exceed the stop budget of 60"):
        lint.check(replace(spec(), grace_seconds=60.0), QUICK)


def test_the_stop_budget_should_cover_a_micro_step_and_a_slow_save() -> None:
    slow = Estimate(parameters=1, save_seconds=50.0, pause_seconds=10.0)
    [warning] = lint.check(spec(), slow)
    assert "stop_budget_seconds=60: one micro-step and a slow save may take 60 s" in warning


def test_shared_memory_must_leave_room() -> None:
    with pytest.raises(LintError, match=r"shm_gib=64: /dev/shm counts"):
        lint.check(spec(memory_gib_per_node=100), QUICK)


def test_a_cluster_sees_neither_folders_nor_moving_tags() -> None:
    local = replace(spec(image="goku"), run_uri="/home/me/runs/stage1")
    folder, image = lint.lint_cluster(local)
    assert "no pod sees" in str(folder)
    assert "no fixed tag" in str(image)
    assert len(list(lint.lint_cluster(spec(image="registry:5000/goku:latest")))) == 1
    assert not list(lint.lint_cluster(spec(image="registry:5000/goku@sha256:ab")))
