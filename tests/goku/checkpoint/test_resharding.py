"""State saved on one world and ZeRO stage, loaded on another: equal bit for bit."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from goku.checkpoint import files, state
from goku.checkpoint.load import Checkpoint, restore, weights
from goku.checkpoint.save import Saved, Saver
from goku.config.parallel import ParallelConfig
from goku.contract.manifest import verify
from goku.contract.retention import Retention
from goku.contract.rundir import RunDir
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh, connect
from tests.net import engine_of, inputs, net, train_step
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

STEP = 2
SAVED: dict[int, Any] = {1: 1, 2: 3, 3: 2}  # world size: stage
# world size: (world size that saved, stage); between them every stage meets every other
LOADED: dict[int, list[tuple[int, Any]]] = {
    1: [(2, 1), (3, 1)],
    2: [(1, 2), (2, 2), (3, 3)],
    3: [(1, 3), (2, 1)],
}
KINDS = ("model", "exp_avg", "exp_avg_sq", "ema")
State = dict[str, list[tuple[int, Tensor]]]  # by tensor: start and values of this rank's interval


def mesh_of(world: int) -> Mesh:
    files.CHUNK = 64  # so that small tensors have many pieces
    return connect(ParallelConfig(processes_per_node=world))


def average_of(engine: Engine) -> dict[str, Tensor]:
    """Something that differs from the weights, in place of an average."""
    return {f.name: f.master * 0.5 + 1 for f in engine.fragments()}


def state_of(engine: Engine, ema: dict[str, Tensor]) -> State:
    pieces = state.sharded(engine.fragments(), ema)
    return {piece.name: [(piece.start, piece.tensor.clone())] for piece in pieces}


def saver_of(uri: str, mesh: Mesh) -> Saver:
    return Saver(
        RunDir(uri), mesh, attempt=1, config_digest="d", code_version="v", retention=Retention()
    )


def save(uri: str, world: int, engine: Engine, ema: dict[str, Tensor]) -> None:
    mesh = mesh_of(world)
    saver_of(uri, mesh).save(
        state.pieces(engine.fragments(), ema, rank=mesh.rank),
        step=STEP,
        samples_seen=10 * STEP,
        optimizer_steps=engine.optimizer_steps,
    )


def save_beside(uri: str, world: int, engine: Engine, ema: dict[str, Tensor]) -> Saved:
    """Save while training goes on: what changes after the release is not in the checkpoint."""
    mesh = mesh_of(world)
    saver = saver_of(uri, mesh)
    saver.start(
        state.pieces(engine.fragments(), ema, rank=mesh.rank),
        step=STEP,
        samples_seen=10 * STEP,
        optimizer_steps=engine.optimizer_steps,
    )
    saver.release()
    train_step(engine, STEP, 1e-2, mesh.rank)
    for values in ema.values():
        values.zero_()
    torch.rand(3)
    saved = saver.wait()
    assert saved is not None
    return saved


def load(uri: str, world: int, engine: Engine) -> dict[str, Tensor]:
    run = RunDir(uri)
    manifest = run.latest()
    assert manifest is not None
    checkpoint = Checkpoint(run.checkpoint(manifest.step), manifest)
    ema = {f.name: torch.zeros_like(f.master) for f in engine.fragments()}
    restore(checkpoint, engine, ema, mesh=mesh_of(world))
    return ema


def output_of(engine: Engine) -> Tensor:
    with torch.no_grad():
        out: Tensor = engine.module(inputs(9, 9, 9)[0])
    return out


# --- on ranks


def saving(uri: str, world: int, stage: int) -> tuple[State, Tensor, Saved]:
    engine = engine_of(world, stage, "bf16")
    for step in range(STEP):
        train_step(engine, step, 1e-2, dist.get_rank())
    ema = average_of(engine)
    return state_of(engine, ema), output_of(engine), save_beside(uri, world, engine, ema)


def loading(world: int, cases: list[tuple[str, int]]) -> list[tuple[State, Tensor, int]]:
    found = []
    for uri, stage in cases:
        engine = engine_of(world, stage, "bf16", seed=7)
        ema = load(uri, world, engine)
        found.append((state_of(engine, ema), output_of(engine), engine.optimizer_steps))
    return found


def resuming(folder: str, world: int, cases: list[tuple[int, str]]) -> list[dict[str, bool]]:
    """Four steps at a stretch, against two, a save, a fresh engine, a restore and two."""
    rank, found = dist.get_rank(), []
    for stage, precision in cases:
        uri = f"{folder}/{stage}-{precision}"
        straight = engine_of(world, stage, precision)
        head = [train_step(straight, step, 1e-2, rank) for step in range(2)]
        save(uri, world, straight, average_of(straight))
        noise = torch.rand(5)
        tail = [train_step(straight, step, 1e-2, rank) for step in range(2, 4)]

        resumed = engine_of(world, stage, precision, seed=7)
        ema = load(uri, world, resumed)
        same_noise = torch.equal(noise, torch.rand(5))
        again = [train_step(resumed, step, 1e-2, rank) for step in range(2, 4)]
        expected, got = state_of(straight, ema), state_of(resumed, ema)
        found.append(
            {
                "it trained": head[0][0] != tail[0][0],
                "losses and norms": tail == again,
                "state": all(equal(got[name], expected[name]) for name in expected),
                "generators": same_noise,
                "steps": resumed.optimizer_steps == straight.optimizer_steps == 4,
            }
        )
    return found


# --- in the test process


def equal(got: list[tuple[int, Tensor]], expected: list[tuple[int, Tensor]]) -> bool:
    pairs = zip(got, expected, strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def assembled(ranks: list[State]) -> dict[str, Tensor]:
    """Every tensor flattened and whole, from the intervals of all ranks."""
    shapes = {name: tuple(p.shape) for name, p in net().named_parameters()}
    whole = {}
    for kind in KINDS:
        for name, shape in shapes.items():
            parts = [part for rank in ranks for part in rank.get(f"{kind}/{name}", [])]
            flat = torch.cat([values for _, values in sorted(parts, key=lambda part: part[0])])
            assert len(flat) == math.prod(shape)
            whole[f"{kind}/{name}"] = flat
    return whole


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


def test_any_world_and_stage_to_any(tmp_path: Path) -> None:
    uris = {world: str(tmp_path / f"world-{world}") for world in SAVED}
    saved: dict[str, tuple[dict[str, Tensor], Tensor]] = {}
    for world, stage in SAVED.items():
        uri = uris[world]
        ranks = run_ranks(saving, world, uri, world, stage)
        saved[uri] = assembled([rank[0] for rank in ranks]), ranks[0][1]
        check_saved(uri, world, saved[uri][0], ranks[0][2])
    for world, origins in LOADED.items():
        cases = [(uris[origin], stage) for origin, stage in origins]
        ranks = run_ranks(loading, world, world, cases)
        for index, (uri, _) in enumerate(cases):
            state, output = saved[uri]
            assert_same(assembled([rank[index][0] for rank in ranks]), state)
            for rank in ranks:
                assert torch.equal(rank[index][1], output)  # published to the bf16 weights
                assert rank[index][2] == STEP


def check_saved(uri: str, world: int, expected: dict[str, Tensor], saved: Saved) -> None:
    run = RunDir(uri)
    manifest = run.latest()
    assert manifest is not None
    assert (manifest.step, manifest.samples_seen, manifest.world_size) == (STEP, 10 * STEP, world)
    assert len(manifest.files) == world
    assert saved.nbytes == manifest.nbytes
    assert 0 < saved.stall_seconds < saved.persist_seconds
    checkpoint = Checkpoint(run.checkpoint(STEP), manifest)
    assert list(verify(checkpoint.folder, manifest)) == []
    for kind in KINDS:
        whole = weights(checkpoint, kind=kind)
        for name, parameter in net().named_parameters():
            assert whole[name].shape == parameter.shape
            assert torch.equal(whole[name].flatten(), expected[f"{kind}/{name}"])


def test_a_resume_on_the_same_world_goes_on_bit_for_bit(tmp_path: Path) -> None:
    cases: list[tuple[Any, str]] = [(1, "bf16"), (2, "fp32"), (2, "bf16"), (3, "bf16")]
    for rank in run_ranks(resuming, 2, str(tmp_path), 2, cases):
        for case, found in zip(cases, rank, strict=True):
            assert all(found.values()), (case, found)
