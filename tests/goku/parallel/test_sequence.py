"""Shared packs over 2, 4 and 8 ranks against one process: outputs, loss and every gradient."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.flow.loss import sample_losses
from goku.model.init import build
from goku.nn.layout import Layout
from goku.parallel.apply import parallelize
from goku.parallel.mesh import connect
from goku.parallel.overlap import overlap
from goku.parallel.sequence import partners, shard, share_tokens
from tests.ranks import run_ranks

CONFIG = ModelConfig(layers=2, width=32, heads=4, text_width=12, latent_channels=4)
SHARINGS = ((2, 1), (2, 2), (4, 1), (4, 2), (4, 4))  # ranks, and runs of neighbours among them
DTYPES = (torch.float64, torch.float32)
PACKS = {
    "divides, segments straddle the cuts": ([(1, 3, 3), (3, 2, 5), (1, 1, 1)], [3, 1, 2]),
    "does not divide": ([(2, 3, 5), (1, 3, 3)], [2, 4]),
    "one short sample without text": ([(1, 1, 3)], [0]),
}


class Pack(NamedTuple):
    layout: Layout
    x_NP: Tensor
    target_NP: Tensor
    t_S: Tensor
    text_MY: Tensor


def pack_of(name: str, dtype: torch.dtype) -> Pack:
    layout = Layout.build(*PACKS[name])
    generator = torch.Generator().manual_seed(len(name))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    tokens, width = layout.tokens, CONFIG.token_width
    text_MY = random(sum(layout.text_lengths), CONFIG.text_width)
    t_S = random(layout.segments).sigmoid()
    return Pack(layout, random(tokens, width), random(tokens, width), t_S, text_MY)


def model_of(dtype: torch.dtype) -> nn.Module:
    """A model without the zeros of the initialisation, which would hide gradients."""
    model = build(CONFIG, seed=0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    return model.to(dtype)


def run(
    model: nn.Module, pack: Pack, rank: int = 0, degree: int = 1, context: int = 1
) -> dict[str, Any]:
    """Velocity of this rank's real tokens, loss per sample, gradients of this rank's part."""
    tokens = [pack.x_NP, pack.target_NP]
    mine = shard(pack.layout, tokens, [pack.t_S], rank=rank, degree=degree, context=context)
    x_NP, target_NP = mine.tokens
    model.zero_grad()
    v_NP = model(x_NP, mine.segments[0], pack.text_MY, mine.layout)
    losses_S = sample_losses(v_NP, target_NP, mine.layout)[: pack.layout.segments]
    losses_S.sum().backward()
    real = mine.layout.segment_N < pack.layout.segments
    return {
        "velocity": v_NP.detach()[real],
        "losses": losses_S.detach(),
        "gradients": {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
    }


def on_ranks(
    world: int, sharings: list[tuple[int, int]], overlapped: bool
) -> dict[Any, dict[str, Any]]:
    results = {}
    for degree, context in sharings:
        config = ParallelConfig(processes_per_node=world, sequence=degree, context=context)
        mesh = connect(config)
        groups = partners(mesh)
        for dtype in DTYPES:
            model = model_of(dtype)
            share_tokens(model, groups)
            if overlapped:
                overlap(model)
            for name in PACKS:
                result = run(model, pack_of(name, dtype), mesh.sequence_rank, degree, context)
                results[degree, context, dtype, name] = result
    return results


@pytest.mark.slow
@pytest.mark.parametrize("overlapped", [False, True], ids=["in turn", "overlapped"])
@pytest.mark.parametrize(("world", "sharings"), [(4, SHARINGS), (8, [(8, 2)])])
def test_outputs_losses_and_all_gradients_equal_one_process(
    world: int, sharings: list[tuple[int, int]], overlapped: bool
) -> None:
    ranks = run_ranks(on_ranks, world, world, sharings, overlapped)
    for dtype, tolerance in zip(DTYPES, (1e-10, 1e-5), strict=True):
        model = model_of(dtype)
        for name in PACKS:
            expected = run(model, pack_of(name, dtype))
            for degree, context in sharings:
                for start in range(0, world, degree):
                    group = ranks[start : start + degree]
                    assert_equal(
                        [rank[degree, context, dtype, name] for rank in group], expected, tolerance
                    )


def trained(stage: Any) -> float:
    """The gradient norm of a step over two packs, one for each pair of sequence ranks."""
    config = ParallelConfig(processes_per_node=4, sequence=2, zero_stage=stage, precision="fp32")
    mesh = connect(config)
    engine = parallelize(model_of(torch.float32), config, TrainingConfig(), mesh, 1)
    pack = pack_of(list(PACKS)[mesh.data_rank], torch.float32)
    mine = shard(
        pack.layout,
        [pack.x_NP, pack.target_NP],
        [pack.t_S],
        rank=mesh.sequence_rank,
        degree=mesh.sequence,
    )
    v_NP = engine.module(mine.tokens[0], mine.segments[0], pack.text_MY, mine.layout)
    part = sample_losses(v_NP, mine.tokens[1], mine.layout)[: pack.layout.segments].sum()
    engine.backward(mesh.sequence * part)
    return engine.step(1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_with_zero_the_gradient_is_that_of_the_mean_over_packs(stage: int) -> None:
    model = model_of(torch.float32)
    total: dict[str, Tensor] = {}
    for name in list(PACKS)[:2]:
        for key, gradient in run(model, pack_of(name, torch.float32))["gradients"].items():
            total[key] = total.get(key, torch.zeros(())) + gradient / 2
    expected = torch.stack([gradient.norm() for gradient in total.values()]).norm().item()
    assert run_ranks(trained, 4, stage) == pytest.approx([expected] * 4, rel=1e-5)


def assert_equal(group: list[dict[str, Any]], expected: dict[str, Any], tolerance: float) -> None:
    close = {"rtol": tolerance, "atol": tolerance}
    velocity = torch.cat([rank["velocity"] for rank in group])
    torch.testing.assert_close(velocity, expected["velocity"], **close)
    losses = torch.stack([rank["losses"] for rank in group]).sum(0)
    torch.testing.assert_close(losses, expected["losses"], **close)
    for name, gradient in expected["gradients"].items():
        parts = [rank["gradients"][name] for rank in group]  # every rank has one of every weight
        torch.testing.assert_close(torch.stack(parts).sum(0), gradient, **close)


def test_shard_pads_tokens_and_segments() -> None:
    pack = pack_of("does not divide", torch.float32)
    whole = [shard(pack.layout, [pack.x_NP], [pack.t_S], rank=rank, degree=4) for rank in range(4)]
    assert [len(part.tokens[0]) for part in whole] == [10] * 4
    joined = torch.cat([part.tokens[0] for part in whole])
    assert torch.equal(joined[:39], pack.x_NP)
    assert torch.equal(joined[39:], torch.zeros(1, CONFIG.token_width))
    for part in whole:
        assert part.segments[0].tolist() == [*pack.t_S.tolist(), 0.0]
        assert part.layout.full_lengths == (30, 9, 1)


def test_each_run_of_neighbours_meets_its_own_queries() -> None:
    pack = pack_of("does not divide", torch.float32)  # 30 + 9 tokens, and one of padding
    parts = [
        shard(pack.layout, [pack.x_NP], rank=rank, degree=4, context=2).layout for rank in range(4)
    ]
    assert [part.query_spans.lengths for part in parts] == [[20, 0, 0]] * 2 + [[10, 9, 1]] * 2
    assert [part.full_spans.lengths for part in parts] == [[30, 9, 1]] * 4


def test_shard_of_one_rank_is_the_pack_itself() -> None:
    pack = pack_of("does not divide", torch.float32)
    part = shard(pack.layout, [pack.x_NP], [pack.t_S], rank=0, degree=1)
    assert part.layout.lengths == pack.layout.lengths
    assert torch.equal(part.tokens[0], pack.x_NP)
    assert torch.equal(part.segments[0], pack.t_S)
