"""A rank that saves a state whose every value follows from its step, and one that restores it.

Each runs in a fork of a process that has imported everything, and is killed there.
"""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist

from goku.checkpoint.load import Checkpoint
from goku.checkpoint.save import Saver
from goku.checkpoint.state import NamedPiece
from goku.config.parallel import ParallelConfig
from goku.contract.manifest import verify
from goku.contract.retention import Retention
from goku.contract.rundir import RunDir
from goku.parallel.mesh import connect

KEEP = 2
_KINDS = ("model", "exp_avg", "exp_avg_sq", "ema")


def state(step: int, elements: int) -> list[NamedPiece]:
    """float32 [elements] of each kind, and some bytes."""
    values = torch.arange(elements, dtype=torch.float32)
    return [
        *(NamedPiece(f"{kind}/w", (elements,), 0, values * (n + 1) + step)
          for n, kind in enumerate(_KINDS)),
        NamedPiece("rng/0/cpu", (77,), 0, torch.full((77,), step % 256, dtype=torch.uint8)),
    ]  # fmt: skip


def saver(run: RunDir, attempt: int) -> Saver:
    """The saver of a run of one rank, whose attempt takes the fence."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = connect(ParallelConfig(processes_per_node=1))
    run.raise_fence(attempt)
    return Saver(
        run,
        mesh,
        attempt=attempt,
        config_digest="d",
        code_version="v",
        retention=Retention(last=KEEP),
    )


def save(saver: Saver, step: int, elements: int) -> None:
    """One checkpoint, durable when this returns; odd steps by the thread beside training."""
    pieces = state(step, elements)
    if step % 2:
        saver.start(pieces, step=step, samples_seen=step, optimizer_steps=step)
        saver.release()
        for piece in pieces:
            piece.tensor.zero_()  # as the optimizer might
        saver.wait()
    else:
        saver.save(pieces, step=step, samples_seen=step, optimizer_steps=step)


def restored(run: RunDir, elements: int) -> int:
    """The latest step, once every byte of it has been checked and every value compared.

    Raises AssertionError for a checkpoint that is torn, and where there is none.
    """
    manifest = run.latest()
    assert manifest is not None, "there is no checkpoint any more"
    folder = run.checkpoint(manifest.step)
    problems = list(verify(folder, manifest))
    assert not problems, f"step {manifest.step} is torn: {problems}"
    expected = state(manifest.step, elements)
    _read(Checkpoint(folder, manifest), expected, manifest.step)
    return manifest.step


def _read(checkpoint: Checkpoint, expected: Sequence[NamedPiece], step: int) -> None:
    for piece in expected:
        found = piece._replace(tensor=torch.zeros_like(piece.tensor))
        checkpoint.read(found)
        assert torch.equal(found.tensor, piece.tensor), f"step {step}: {piece.name} is not its own"
