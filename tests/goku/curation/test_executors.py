"""Local workers are out of reach of signals, light, and mortal. The app's tests run both kinds."""

import importlib
import multiprocessing
import os
import sys
import time
from typing import Literal

import pytest

from goku.apps.entry import judge
from goku.config import ConfigError
from goku.contract.exits import Cause
from goku.curation.executors import LocalExecutor, RayExecutor, executor


def _about_me(name: str) -> tuple[str, bool, bool]:
    """Name, whether this process leads its own session, whether curation brought torch along."""
    importlib.import_module("goku.curation.pipeline")
    return name, os.getsid(0) == os.getpid(), "torch" in sys.modules


def _forever(name: str) -> str:
    time.sleep(600)
    return name


def _fails(name: str) -> str:
    raise ConfigError(name, "it is damaged", "Delete it.")


@pytest.mark.slow
def test_local_workers_lead_their_own_session_and_need_no_torch() -> None:
    names = [str(number) for number in range(9)]
    reports = [report for report in LocalExecutor(2).run(_about_me, names) if report is not None]
    assert sorted(reports) == [(name, True, False) for name in names]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_closing_early_ends_workers_that_are_busy() -> None:
    reports = LocalExecutor(1).run(_forever, ["a", "b"])
    assert next(reports) is None
    reports.close()
    # The pool's own thread waits for the same children, so join may miss the end of one.
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_an_error_of_the_work_surfaces(kind: Literal["local", "ray"]) -> None:
    with pytest.raises(ConfigError, match=r"^a: it is damaged\. Delete it\.$") as raised:
        list(executor(kind, workers=1).run(_fails, ["a"]))
    assert judge(raised.value).cause is Cause.USER_ERROR


def test_the_configuration_chooses() -> None:
    assert isinstance(executor("local", workers=1), LocalExecutor)
    assert isinstance(executor("ray", workers=1), RayExecutor)
