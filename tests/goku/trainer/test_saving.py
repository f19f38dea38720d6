"""Saves beside training: back-pressure, a stop while one is in flight, and the nodes' own disks."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.checkpoint import memory
from goku.config import ConfigError
from goku.contract import metrics
from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import NodeDir, RunDir
from goku.contract.store.local import Folder
from goku.parallel.host import Room
from goku.trainer.loop import Trainer, train
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

PATCH = pytest.MonkeyPatch()  # a rank is a process of its own, and nothing comes after the test


def slow_store(trainer: Trainer) -> None:
    """A save beside training ends only when training waits for it."""
    writer, waited = Folder.writer, threading.Event()
    saver = trainer.saving._saver
    wait = saver.wait

    def write(folder: Folder, name: str) -> Any:
        if threading.current_thread().name.startswith("save") and name.endswith(".safetensors"):
            assert waited.wait(60)
        return writer(folder, name)

    def open_the_gate() -> Any:
        waited.set()
        try:
            return wait()
        finally:
            waited.clear()

    PATCH.setattr(Folder, "writer", write)
    PATCH.setattr(saver, "wait", open_the_gate)


def begin(store: Path, *settings: str) -> Trainer:
    """A trainer of two ranks in an attempt of its own."""
    config = world.configure(store, "run", *settings)
    if int(os.environ["RANK"]) == 0:
        Ledger(RunDir(f"{store}/run")).open(host="test", nodes=1, processes_per_node=2)
    torch.distributed.barrier()
    trainer = world.trainer_of(config, store / "pod")
    trainer.health.install()
    return trainer


def local(store: Path) -> tuple[str, ...]:
    return (
        f"checkpoint.local_dir={store}/disk",
        "checkpoint.local_interval_steps=2",
        "checkpoint.interval_steps=5",
    )


def node_of(store: Path) -> NodeDir:
    [folder] = (store / "disk").iterdir()
    return NodeDir(str(folder))


def stop_in(trainer: Trainer, step: int) -> None:
    """Send rank 0 SIGTERM in the middle of the step that ends as number `step`."""
    update: Callable[[float], float] = trainer.engine.step

    def watched(rate: float) -> float:
        if trainer.position.step == step - 1 and trainer.mesh.rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(rate)

    PATCH.setattr(trainer.engine, "step", watched)


def told(trainer: Trainer) -> dict[str, float]:
    if trainer.report is None:
        return {}
    return {s.name: s.value for f in trainer.report._registry.collect() for s in f.samples}


def too_often(store: Path) -> Any:
    """Three saves, each of which takes longer than the step in between."""
    trainer = begin(store, "training.steps=4", "checkpoint.interval_steps=1")
    slow_store(trainer)
    return train(trainer), trainer.position, told(trainer)


def stopped_in_flight(store: Path) -> Any:
    trainer = begin(store, "checkpoint.interval_steps=3")
    slow_store(trainer)
    stop_in(trainer, 4)
    return train(trainer), trainer.position


def on_disks(store: Path, stop: int | None) -> Any:
    """A run that saves to the nodes' disks at 2, 4, 6, 8 and to the store at 5; and at the end."""
    trainer = begin(store, *local(store))
    saver = trainer.saving._saver
    PATCH.setattr(
        saver, "poll", lambda _ended: saver.wait()
    )  # or step 6 might be left out, for 5 is in flight
    began = trainer.position.step
    if stop is not None:
        stop_in(trainer, stop)
    cause = train(trainer)
    return cause, began, trainer.position, world.weights(trainer)


def in_the_foreground(store: Path) -> Any:
    trainer = begin(store, "checkpoint.background=false", "checkpoint.interval_steps=3")
    PATCH.setattr(trainer.saving._saver, "start", None)
    return train(trainer)


def overdue(store: Path, behind: float) -> Any:
    """No step is to be saved by its number; rank 1 has not seen a save for so many seconds."""
    trainer = begin(
        store,
        "training.steps=4",
        "checkpoint.background=false",
        "checkpoint.interval_seconds=100000",
    )
    if trainer.mesh.rank == 1:
        trainer.saving._last_began -= behind
    return train(trainer)


def too_little_memory(store: Path) -> str:
    PATCH.setattr(memory, "room", lambda: Room(1000, 4000, "the cgroup's memory.max"))
    try:
        begin(store)
    except ConfigError as error:
        return str(error)
    return ""


def a_file_for_a_disk(store: Path) -> str:
    try:
        begin(store, *local(store))
    except ConfigError as error:
        return str(error)
    return ""


def test_a_slow_store_holds_training_up_and_it_is_counted(tmp_path: Path) -> None:
    world.encode(tmp_path)
    ranks = run_ranks(too_often, 2, tmp_path)
    for cause, position, report in ranks:
        assert cause is Cause.DONE
        assert (position.step, position.durable_step) == (4, 4)
        if report:
            assert report[metrics.CHECKPOINT_BACKPRESSURE.name] == 2
            assert report[metrics.CHECKPOINT_BACKPRESSURE_SECONDS.name] > 0
            assert report[metrics.CHECKPOINT_IN_FLIGHT.name] == 0
    steps = [manifest.step for manifest in RunDir(f"{tmp_path}/run").complete()]
    assert steps == [4, 3, 2]


def test_a_stop_waits_for_the_save_in_flight_and_saves_the_last_step(tmp_path: Path) -> None:
    world.encode(tmp_path)
    for cause, position in run_ranks(stopped_in_flight, 2, tmp_path):
        assert cause is Cause.YIELDED
        assert (position.step, position.durable_step) == (4, 4)
    assert [found.step for found in RunDir(f"{tmp_path}/run").complete()] == [4, 3]


def test_without_the_background_nothing_is_copied(tmp_path: Path) -> None:
    world.encode(tmp_path)
    assert run_ranks(in_the_foreground, 2, tmp_path) == [Cause.DONE] * 2
    assert [found.step for found in RunDir(f"{tmp_path}/run").complete()] == [8, 6, 3]


@pytest.mark.parametrize(("behind", "saved"), [(0.0, [4]), (200_000.0, [4, 1])])
def test_a_save_is_due_after_a_time_and_all_ranks_begin_it(
    tmp_path: Path, behind: float, saved: list[int]
) -> None:
    world.encode(tmp_path)
    assert run_ranks(overdue, 2, tmp_path, behind) == [Cause.DONE] * 2
    assert [found.step for found in RunDir(f"{tmp_path}/run").complete()] == saved


def test_memory_that_is_too_small_is_the_users_error_on_all_ranks(tmp_path: Path) -> None:
    world.encode(tmp_path)
    for error in run_ranks(too_little_memory, 2, tmp_path):
        assert "checkpoint.background=true" in error
        assert "the copies of the state of 2 ranks take" in error
        assert "1000 bytes (0.0 GiB) are left below the 4000 bytes" in error


def test_a_file_in_the_place_of_the_disk_is_the_users_error_on_all_ranks(tmp_path: Path) -> None:
    world.encode(tmp_path)
    (tmp_path / "disk").write_text("not a folder")
    for error in run_ranks(a_file_for_a_disk, 2, tmp_path):
        assert error.startswith(f"checkpoint.local_dir={tmp_path}/disk: ")
        assert "cannot write there (Not a directory)" in error


def test_a_restart_takes_the_newest_of_store_and_disks(tmp_path: Path) -> None:
    """The state is the same, bit for bit, as without a restart; a broken disk leaves the store."""
    world.encode(tmp_path)
    whole = run_ranks(on_disks, 2, tmp_path, None)
    assert {rank[:2] for rank in whole} == {(Cause.DONE, 0)}
    node, run = node_of(tmp_path), RunDir(f"{tmp_path}/run")
    assert [found.step for found in run.complete()] == [8, 5]
    assert node.steps() == [4, 6]

    run.remove(8)
    again = run_ranks(on_disks, 2, tmp_path, None)
    for (_, _, _, expected), (cause, began, position, got) in zip(whole, again, strict=True):
        assert (cause, began, position.durable_step) == (Cause.DONE, 6, 8)
        assert all(torch.equal(got[name], value) for name, value in expected.items())

    run.remove(8)
    flip(node.checkpoint(6).local_path())
    once_more = run_ranks(on_disks, 2, tmp_path, None)
    assert {rank[:2] for rank in once_more} == {(Cause.DONE, 5)}


def flip(folder: Path | None) -> None:
    assert folder is not None
    path = sorted(folder.glob("*.safetensors"))[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_stop_saves_to_disks_and_store(tmp_path: Path) -> None:
    world.encode(tmp_path)
    for cause, _, position, _ in run_ranks(on_disks, 2, tmp_path, 3):
        assert cause is Cause.YIELDED
        assert position.durable_step == 3
    assert node_of(tmp_path).steps() == [2, 3]
    assert [found.step for found in RunDir(f"{tmp_path}/run").complete()] == [3]


def test_disks_of_another_run_of_the_same_name_do_not_count(tmp_path: Path) -> None:
    world.encode(tmp_path)
    run_ranks(on_disks, 2, tmp_path, 3)
    shutil.rmtree(tmp_path / "run")
    [began] = {rank[1] for rank in run_ranks(on_disks, 2, tmp_path, 3)}
    assert began == 0
