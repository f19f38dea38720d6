"""Saving beside training: what is saved, what all ranks agree on, and what goes wrong alike."""

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from goku.checkpoint import files
from goku.checkpoint.load import Checkpoint, weights
from goku.checkpoint.origin import newest
from goku.checkpoint.save import Saved, SaveFailed, Saver, Tier
from goku.checkpoint.state import NamedPiece
from goku.config.parallel import ParallelConfig
from goku.contract.manifest import verify
from goku.contract.retention import METRIC, Retention
from goku.contract.rundir import Fenced, NodeDir, RunDir
from goku.parallel.mesh import connect
from tests.ranks import RankFailed, run_ranks

pytestmark = pytest.mark.slow

WORLD = 2


class Gate:
    """Holds this rank's writes back until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self._write = files.write
        files.write = self.write

    def write(self, *arguments: Any) -> Any:
        assert self.open.wait(60)
        return self._write(*arguments)


def saver(run: RunDir, *, attempt: int = 1, node: NodeDir | None = None) -> Saver:
    return Saver(
        run,
        connect(ParallelConfig(processes_per_node=WORLD)),
        attempt=attempt,
        config_digest="d",
        code_version="v",
        retention=Retention(),
        node=node,
    )


def state() -> list[NamedPiece]:
    rank = dist.get_rank()
    return [
        NamedPiece("model/weight", (10,), 5 * rank, torch.arange(5.0) + 5 * rank),
        NamedPiece(f"rng/{rank}/cpu", (3,), 0, torch.tensor([1, 2, 3], dtype=torch.uint8)),
        NamedPiece("model/half", (6,), 3 * rank, torch.arange(3).to(torch.bfloat16)),
    ]


def start(saver: Saver, step: int, tier: Tier = Tier.STORE) -> list[NamedPiece]:
    pieces = state()
    metrics = {METRIC: 0.5, "validation_loss_raw": float("nan")}
    saver.start(
        pieces, step=step, samples_seen=step, optimizer_steps=step, metrics=metrics, tier=tier
    )
    return pieces


def ended(saver: Saver) -> Saved | tuple[str, str]:
    try:
        saved = saver.wait()
    except (SaveFailed, Fenced) as error:
        return type(error).__name__, str(error)
    assert saved is not None
    return saved


def polled(saver: Saver) -> Saved | None:
    ended = torch.tensor(saver.ended)
    dist.all_reduce(ended, dist.ReduceOp.MIN)
    return saver.poll(int(ended))


def changed_meanwhile(uri: str) -> Any:
    """Rank 1's store is slow; every rank changes its state as soon as it may."""
    subject = saver(RunDir(uri))
    assert (subject.in_flight, polled(subject), subject.wait()) == (None, None, None)
    gate = Gate()
    if dist.get_rank() == 0:
        gate.open.set()
    pieces = start(subject, 10)
    subject.release()
    for piece in pieces:
        piece.tensor.zero_()
    early = [polled(subject) for _ in range(3)]
    committed = RunDir(uri).latest()
    dist.barrier()
    gate.open.set()
    while (saved := polled(subject)) is None:
        pass
    return early, committed, saved, subject.in_flight


def failing_on_one_rank(uri: str) -> list[Any]:
    subject, working = saver(RunDir(uri)), files.write

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    outcomes = []
    for step in (10, 20, 30):
        files.write = full if (step, dist.get_rank()) == (20, 1) else working
        start(subject, step)
        outcomes.append(ended(subject))
    return outcomes


def fenced_in_flight(uri: str) -> Any:
    run, gate = RunDir(uri), Gate()
    run.raise_fence(1)
    subject = saver(run)
    start(subject, 10)
    run.raise_fence(2)
    gate.open.set()
    return ended(subject)


def killed_in_flight(uri: str) -> None:
    subject = saver(RunDir(uri))
    start(subject, 10)
    subject.wait()
    gate = Gate()
    if dist.get_rank() == 0:
        gate.open.set()
    start(subject, 20)
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def two_nodes(uri: str) -> Any:
    """Each rank is a node of its own. The node tier is saved to while the store is slow."""
    os.environ["LOCAL_RANK"] = "0"
    rank, gate = dist.get_rank(), Gate()
    subject = saver(RunDir(uri), node=NodeDir(f"{uri}-{rank}"))
    pieces = start(subject, 10)
    files.write = gate._write
    facts = {"step": 12, "samples_seen": 12, "optimizer_steps": 12}
    quick = subject.save(pieces, **facts, tier=Tier.NODE)  # type: ignore[arg-type]  # all ints
    gate.open.set()
    return quick, ended(subject)


def moved_nodes(uri: str) -> Any:
    """Saved on two nodes; then the ranks are back, have changed places, or lost a disk."""
    os.environ["LOCAL_RANK"] = "0"
    rank, run = dist.get_rank(), RunDir(uri)
    nodes = [NodeDir(f"{uri}-{number}") for number in range(WORLD)]
    subject, mesh = saver(run, node=nodes[rank]), connect(ParallelConfig(processes_per_node=WORLD))
    for step, tier in ((10, Tier.STORE), (12, Tier.NODE)):
        subject.save(state(), step=step, samples_seen=step, optimizer_steps=step, tier=tier)
    wanted = [piece for piece in state() if piece.name.startswith("model/")]

    def found(node: NodeDir | None) -> tuple[int, Tier]:
        origin = newest(run, node, wanted, mesh)
        assert origin is not None
        return origin.manifest.step, origin.tier

    places = [found(nodes[rank]), found(nodes[1 - rank]), found(None)]
    dist.barrier()
    if rank == 0:
        nodes[0].checkpoint(12).delete("attempt-0001-rank-00000.safetensors")
    dist.barrier()
    return [*places, found(nodes[rank])]


def test_the_nodes_disks_count_where_every_rank_finds_its_part(tmp_path: Path) -> None:
    for places in run_ranks(moved_nodes, WORLD, str(tmp_path / "run")):
        back, swapped, unused, lost = places
        assert back == (12, Tier.NODE)
        assert swapped == unused == lost == (10, Tier.STORE)


def test_what_changes_after_the_release_is_not_saved(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    for early, committed, saved, in_flight in run_ranks(changed_meanwhile, WORLD, run.uri):
        assert early == [None] * 3
        assert committed is None
        assert in_flight is None
        assert (saved.step, saved.tier) == (10, Tier.STORE)
        assert 0 < saved.stall_seconds < saved.persist_seconds
    manifest = run.latest()
    assert manifest is not None
    assert manifest.metrics == {METRIC: 0.5}
    assert 0 < manifest.save_seconds < 60
    checkpoint = Checkpoint(run.checkpoint(10), manifest)
    assert list(verify(checkpoint.folder, manifest)) == []
    found = weights(checkpoint, kind="model")
    assert torch.equal(found["weight"], torch.arange(10.0))
    assert torch.equal(found["half"], torch.tensor([0, 1, 2, 0, 1, 2]).to(torch.bfloat16))


def test_a_save_that_fails_on_one_rank_fails_on_all_and_the_next_works(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    for outcomes in run_ranks(failing_on_one_rank, WORLD, run.uri):
        assert [getattr(outcome, "step", None) for outcome in outcomes] == [10, None, 30]
        assert outcomes[1][0] == "SaveFailed"
        assert outcomes[1][1].startswith("step 20 was not saved: rank 1: OSError:")
    assert run.steps() == [10, 30]


def test_an_attempt_that_is_superseded_in_flight_ends_on_all_ranks(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    for outcome in run_ranks(fenced_in_flight, WORLD, run.uri):
        assert outcome == ("Fenced", "attempt 1 of run: attempt 2 has taken over")
    assert run.latest() is None


def test_killed_with_a_save_in_flight_the_one_before_is_the_latest(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    with pytest.raises(RankFailed):
        run_ranks(killed_in_flight, WORLD, run.uri)
    latest = run.latest()
    assert latest is not None
    assert latest.step == 10


def test_every_node_commits_what_its_ranks_wrote(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    for quick, slow in run_ranks(two_nodes, WORLD, uri):
        assert (quick.step, quick.tier) == (12, Tier.NODE)
        assert (slow.step, slow.tier) == (10, Tier.STORE)
    store, *nodes = RunDir(uri), NodeDir(f"{uri}-0"), NodeDir(f"{uri}-1")
    assert store.newest() == store.whole(10)
    manifests = [node.latest() for node in nodes]
    assert manifests[0] == manifests[1]
    for rank, node in enumerate(nodes):
        held = node.checkpoint(12).list()
        assert held == [f"attempt-0001-rank-{rank:05d}.safetensors", "manifest.json"]
