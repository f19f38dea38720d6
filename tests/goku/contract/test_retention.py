"""What is kept: by the rules, and whatever the rules say."""

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.contract.manifest import FileEntry, Manifest, Piece, TensorEntry
from goku.contract.retention import METRIC, Retention
from goku.contract.rundir import NodeDir, RunDir

PAYLOAD = b"weights"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path / "runs" / "stage1"))


def manifest(step: int, loss: float | None = None, files: tuple[str, ...] = ("data",)) -> Manifest:
    return Manifest(
        step=step,
        attempt=1,
        samples_seen=0,
        optimizer_steps=step,
        world_size=1,
        config_digest="d",
        code_version="v",
        created_at=0.0,
        metrics={} if loss is None else {METRIC: loss},
        tensors={},
        files={name: FileEntry(nbytes=len(PAYLOAD)) for name in files},
    )


def save(run: RunDir, step: int, loss: float | None = None) -> None:
    run.checkpoint(step).write("data", PAYLOAD)
    run.commit(manifest(step, loss))


def test_the_newest_complete_ones_are_kept_and_older_leftovers_are_not(run: RunDir) -> None:
    for step in (10, 20, 30, 40):
        save(run, step)
    run.checkpoint(35).write("data", PAYLOAD)  # never committed, and will not be
    run.checkpoint(50).write("data", PAYLOAD)  # being written
    assert run.doomed(Retention(last=2)) == [10, 20, 35]
    assert run.steps() == [10, 20, 30, 35, 40, 50]
    assert run.retain(Retention(last=2)) == [10, 20, 35]
    assert run.steps() == [30, 40, 50]
    assert [found.step for found in run.complete()] == [40, 30]


def test_what_another_attempt_left_beside_the_newest_payload_goes(run: RunDir) -> None:
    run.checkpoint(10).write("attempt-0001-rank-00000.safetensors", b"half")
    save(run, 10)
    run.note_verified(manifest(10))
    run.retain(Retention(last=1))
    assert run.checkpoint(10).list() == ["data", "manifest.json", "verified"]


def test_what_killed_writers_left_in_a_folder_goes(run: RunDir) -> None:
    save(run, 10)
    folder, root = run.checkpoint(10).local_path(), run.store.local_path()
    assert folder is not None
    assert root is not None
    left = [place / f".goku-partial-{age}" for place in (folder, root) for age in ("old", "young")]
    for path in left:
        path.write_bytes(b"half")
        if path.name.endswith("old"):
            os.utime(path, (0, 0))
    run.retain(Retention(last=1))
    assert [path for path in left if path.exists()] == [root / ".goku-partial-young"]


def test_without_a_complete_checkpoint_nothing_is_deleted(run: RunDir) -> None:
    run.checkpoint(10).write("data", PAYLOAD)
    assert run.retain(Retention(last=1)) == []
    assert run.steps() == [10]


def test_every_nth_and_the_best_are_kept(run: RunDir) -> None:
    losses = {10: 0.5, 15: 0.9, 20: 0.2, 25: 0.3, 30: None, 35: 0.7, 40: 0.8}
    for step, loss in losses.items():
        save(run, step, loss)
    run.checkpoint(32).write("data", PAYLOAD)
    assert run.retain(Retention(last=1, every=15, best=2)) == [10, 32, 35]
    assert run.steps() == [15, 20, 25, 30, 40]


def test_a_leftover_is_no_milestone(run: RunDir) -> None:
    run.checkpoint(10).write("data", PAYLOAD)
    save(run, 20)
    assert run.retain(Retention(last=1, every=10)) == [10]


def test_those_in_use_pinned_or_alone_verified_are_kept(run: RunDir) -> None:
    for step in (10, 20, 30, 40, 50):
        save(run, step)
    run.pin(10, "stage2")
    run.pin(10, "a-person")
    run.note_verified(manifest(30))
    assert run.pins() == {10: ("a-person", "stage2")}
    assert run.retain(Retention(last=1), in_use=(20,)) == [40]
    run.note_verified(manifest(50))
    run.unpin(10, "stage2")
    assert run.retain(Retention(last=1)) == [20, 30]
    run.unpin(10, "a-person")
    assert run.retain(Retention(last=1)) == [10]
    assert run.steps() == [50]


@pytest.mark.parametrize("rule", [Retention(last=3), Retention(last=3, every=40)])
def test_the_newest_are_counted_whatever_else_keeps_them(run: RunDir, rule: Retention) -> None:
    for step in (10, 20, 30, 40, 50):
        save(run, step)
    run.pin(50, "stage2")
    assert run.retain(rule, in_use=(40,)) == [10, 20]


def test_on_a_nodes_disk_the_files_of_other_nodes_are_not_missed(tmp_path: Path) -> None:
    node = NodeDir(str(tmp_path))
    for step in (10, 20, 30):
        node.checkpoint(step).write("data", PAYLOAD)
        node.commit(manifest(step, files=("data", "on-another-node")))
    node.checkpoint(30).delete("data")  # a commit that another node did not make
    assert RunDir(str(tmp_path)).latest() is None
    latest = node.latest()
    assert latest is not None
    assert latest.step == 20
    assert node.retain(Retention(last=1)) == [10]


@given(
    steps=st.sets(st.integers(1, 60), min_size=1),
    last=st.integers(1, 4),
    every=st.none() | st.integers(1, 20),
    best=st.integers(0, 3),
    losses=st.dictionaries(st.integers(1, 60), st.floats(0, 1)),
)
def test_each_rule_is_kept_whatever_the_others_say(
    steps: set[int], last: int, every: int | None, best: int, losses: dict[int, float]
) -> None:
    complete = [manifest(step, losses.get(step)) for step in sorted(steps, reverse=True)]
    kept = Retention(last=last, every=every, best=best).kept(complete)
    assert kept <= steps
    assert kept.issuperset(sorted(steps)[-last:])
    assert not every or kept.issuperset(step for step in steps if step % every == 0)
    measured = sorted(losses[step] for step in steps if step in losses)
    found = sorted(losses[step] for step in kept if step in losses)
    assert found[:best] == measured[:best]
    assert len(kept) <= last + best + (len(steps) // every + 60 // every if every else 0)


def test_what_is_kept_is_decided_without_the_pieces_of_tensors(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    pieces = tuple(
        Piece(start=n, length=1, file="data", offset=n, nbytes=1, crc32=0) for n in range(20_000)
    )
    tensor = TensorEntry(shape=(len(pieces),), dtype="U8", pieces=pieces)
    for step in (10, 20, 30, 40):
        run.checkpoint(step).write("data", PAYLOAD)
        run.commit(manifest(step).model_copy(update={"tensors": {"model/w": tensor}}))
    tracemalloc.start()
    try:
        assert run.retain(Retention(last=2)) == [10, 20]
        assert run.newest() is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    latest = run.latest()
    assert latest is not None
    assert latest.tensors["model/w"] == tensor
    assert peak < 4 * len(latest.encode())
