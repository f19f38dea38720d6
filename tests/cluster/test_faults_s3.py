"""Saving through a proxy that misbehaves: done after retries, or failed cleanly and made up for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from goku.checkpoint.save import SaveFailed
from goku.config.run import RunConfig
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku.contract.store import s3_client
from goku.trainer.loop import train
from tests.cluster.s3 import S3Server, serving
from tests.faults import proxy, saving
from tests.faults.proxy import Proxy
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

ELEMENTS = 1_200_000  # of each kind: two parts of an upload


class Case(NamedTuple):
    """A fault, and whether the client tries again by itself."""

    fault: proxy.Fault
    retried: bool


CASES = {
    "500": Case(proxy.INTERNAL_ERROR, True),
    "slow-down": Case(proxy.SLOW_DOWN, True),
    "reset": Case(proxy.reset, True),
    "answer-lost": Case(proxy.lost, True),
    "silence": Case(proxy.silence, True),
    "truncated": Case(proxy.truncated, True),
    "clock-skew": Case(proxy.SKEWED, False),
    "expired": Case(proxy.EXPIRED, False),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serving("minio", tmp_path_factory.mktemp("minio")) as started:
        yield started


# --- on a rank


def through(server: tuple[str, int], environment: dict[str, str]) -> Proxy:
    """A proxy that this process's stores go through from now on."""
    made = Proxy(*server).__enter__()
    os.environ.update(environment, AWS_ENDPOINT_URL=made.url)
    s3_client._READ_SECONDS = 3.0  # of a machine that does other things too
    return made


def attempt(saver: Any, step: int) -> str | None:
    """What a failed save said, or None."""
    try:
        saving.save(saver, step, ELEMENTS)
    except SaveFailed as failure:
        return str(failure)
    return None


def saves(uri: str, server: tuple[str, int], environment: dict[str, str], name: str) -> list[Any]:
    """A sound save, one that meets a short fault, one that meets a long one, and one after it."""
    between, run = through(server, environment), RunDir(uri)
    saver = saving.saver(run, 1)
    said = [attempt(saver, 10)]
    assert said == [None]
    between.fault(CASES[name].fault, requests=2)
    said.append(attempt(saver, 20))
    between.fault(CASES[name].fault)
    said.append(attempt(saver, 30))
    met = between.met
    between.heal()
    durable = saving.restored(run, ELEMENTS)
    said.append(attempt(saver, 40))
    return [said, met, durable, saving.restored(run, ELEMENTS), run.steps()]


def slowly(uri: str, server: tuple[str, int], environment: dict[str, str]) -> tuple[Any, int]:
    between, run = through(server, environment), RunDir(uri)
    saver = saving.saver(run, 1)
    between.fault(proxy.slow)
    return attempt(saver, 10), saving.restored(run, ELEMENTS)


def training(
    uri: str, server: tuple[str, int], environment: dict[str, str], folder: Path
) -> dict[str, Any]:
    """Train while one fault after the other lasts for some requests; then restore and compare."""
    between = through(server, environment)
    faults = iter([*CASES.values()] * 100)
    chosen: RunConfig = world.configure(
        uri,
        "run",
        "training.steps=60",
        "checkpoint.interval_steps=2",
        "parallel.processes_per_node=1",
        f"data.latents={folder}/encode",
    )
    trainer = world.trainer_of(chosen, folder / "pod")
    finished = trainer.health.finished

    def troubled(step: int) -> None:
        finished(step)
        if step > 50:
            between.heal()
        elif step % 6 == 0:
            between.fault(next(faults).fault, requests=9)

    trainer.health.finished = troubled  # type: ignore[method-assign]  # where a step ends
    cause = train(trainer)
    ended = world.weights(trainer)
    restored = world.weights(world.trainer_of(chosen, folder / "pod-2"))
    differ = [name for name, value in ended.items() if not torch.equal(value, restored[name])]
    return {"cause": cause, "differ": differ, "kinds": len(ended)}


# --- here


@pytest.mark.parametrize("name", CASES)
def test_a_save_is_done_after_retries_or_fails_with_its_step(server: S3Server, name: str) -> None:
    uri = f"s3://{server.bucket}/{name}/run"
    place = (server.address, server.port)
    [(said, met, durable, newest, steps)] = run_ranks(
        saves, 1, uri, place, server.environment(), name
    )
    assert said[0] is None
    if CASES[name].retried:
        assert said[1] is None
    else:
        assert said[1].startswith("step 20 was not saved: ")
    assert said[2].startswith("step 30 was not saved: ")
    assert server.secret_key not in said[2]
    assert met > 0
    assert said[3] is None
    assert durable == (20 if CASES[name].retried else 10)
    assert newest == 40
    assert steps == [durable, 40]


def test_a_slow_upload_is_waited_for(server: S3Server) -> None:
    uri = f"s3://{server.bucket}/slow/run"
    place = (server.address, server.port)
    assert run_ranks(slowly, 1, uri, place, server.environment()) == [(None, 10)]


def test_training_goes_on_through_all_of_them(server: S3Server, tmp_path: Path) -> None:
    world.encode(tmp_path)
    uri, place = f"s3://{server.bucket}/trained", (server.address, server.port)
    [ended] = run_ranks(
        training, 1, uri, place, server.environment(), tmp_path, timeout_seconds=280
    )
    assert ended["cause"] is Cause.DONE
    assert ended["kinds"] > 0
    assert ended["differ"] == []
    with pytest.MonkeyPatch.context() as environment:
        for key, value in server.environment().items():
            environment.setenv(key, value)
        latest = RunDir(f"{uri}/run").latest()
    assert latest is not None
    assert latest.step == 60
