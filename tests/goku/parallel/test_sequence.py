"""Shared packs over 2, 4 and 8 ranks against one process: outputs, loss and every gradient; and how
many graphs a compiled block has."""

from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from goku.config.memory import Keep, Policy
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.flow.loss import sample_losses
from goku.model.init import build
from goku.nn.layout import Layout, rows_of
from goku.parallel.apply import parallelize
from goku.parallel.compile import compile_blocks, graphs
from goku.parallel.mesh import Place, connect
from goku.parallel.overlap import overlap
from goku.parallel.recompute import recompute
from goku.parallel.sequence import partners, shard, share_tokens
from tests.goku.nn import by_hand
from tests.ranks import run_ranks

CONFIG = ModelConfig(layers=2, width=32, heads=4, text_width=12, latent_channels=4)
SHARINGS = ((2, 1), (2, 2), (4, 1), (4, 2), (4, 4))  # ranks, and runs of neighbours among them
ALONE = Place()
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
DTYPES = tuple(TOLERANCES)
PACKS = {
    "divides, segments straddle the cuts": ([(1, 3, 3), (3, 2, 5), (1, 1, 1)], [3, 1, 2]),
    "does not divide": ([(2, 3, 5), (1, 3, 3)], [2, 4]),
    "one short sample without text": ([(1, 1, 3)], [0]),
    "a sample for every rank": ([(1, 3, 3), (2, 1, 5), (1, 1, 1), (1, 2, 4)] * 2, [2, 0, 3, 1] * 2),
}
# neither of one segment, which is compiled apart, nor of sizes that a model has as well
COMPILED = {
    "six": ([(1, 3, n) for n in (3, 7, 2, 5, 9, 11)], [5] * 6),
    "seven": ([(1, 2, n) for n in (7, 9, 11, 3, 5, 8, 13)], [3] * 7),
    "nine": ([(1, 1, 11)] * 9, [2] * 9),
}


class Pack(NamedTuple):
    layout: Layout
    x_NP: Tensor
    target_NP: Tensor
    t_S: Tensor
    text_MY: Tensor

    def only(self, numbers: list[int]) -> "Pack":
        lengths = self.layout.lengths
        return Pack(
            self.layout.only(numbers),
            rows_of(numbers, self.x_NP, lengths),
            rows_of(numbers, self.target_NP, lengths),
            self.t_S[numbers],
            rows_of(numbers, self.text_MY, self.layout.text_lengths),
        )


def pack_of(name: str, dtype: torch.dtype) -> Pack:
    layout = Layout.build(*(PACKS | COMPILED)[name])
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


def run(model: nn.Module, pack: Pack, place: Place = ALONE) -> dict[str, Any]:
    """Velocity of this rank's real tokens, loss per sample, gradients of this rank's part."""
    mine = shard(pack.layout, [pack.x_NP, pack.target_NP], [pack.t_S], place=place)
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


def parts_of(pack: Pack, runs: int) -> list[list[int]] | None:
    """Samples for each of so many runs, in turn; None where there are not enough."""
    numbers = range(pack.layout.segments)
    return None if len(numbers) < runs else [list(numbers[run::runs]) for run in range(runs)]


def on_ranks(
    world: int, sharings: list[tuple[int, int]], overlapped: bool
) -> dict[Any, dict[str, Any]]:
    results = {}
    for sequence, context in sharings:
        config = ParallelConfig(processes_per_node=world, sequence=sequence, context=context)
        mesh = connect(config)
        groups = partners(mesh)
        for dtype in DTYPES:
            model = model_of(dtype)
            share_tokens(model, groups)
            if overlapped:
                overlap(model)
            for name, degree in product(PACKS, mesh.degrees):
                pack = pack_of(name, dtype)
                parts = parts_of(pack, sequence // degree)
                if parts is not None:
                    own = pack.only(parts[mesh.sequence_rank // degree])
                    result = run(model, own, mesh.place(degree))
                    results[sequence, context, dtype, name, degree] = result
    return results


@pytest.mark.slow
@pytest.mark.parametrize("overlapped", [False, True], ids=["in turn", "overlapped"])
@pytest.mark.parametrize(("world", "sharings"), [(4, SHARINGS), (8, [(8, 2)])])
def test_outputs_losses_and_all_gradients_equal_one_process(
    world: int, sharings: list[tuple[int, int]], overlapped: bool
) -> None:
    """At every degree, whether all ranks cut up all samples or runs of them some each."""
    ranks = run_ranks(on_ranks, world, world, sharings, overlapped)
    seen = set()
    for case in ranks[0]:
        sequence, context, dtype, name, degree = case
        pack = pack_of(name, dtype)
        parts = parts_of(pack, sequence // degree)
        assert parts is not None
        expected = run(model_of(dtype), pack)
        for start in range(0, world, sequence):
            group = [rank[case] for rank in ranks[start : start + sequence]]
            assert_equal(group, expected, parts, pack, TOLERANCES[dtype])
        seen.add((sequence, context, degree))
    for sequence, context in sharings:
        assert {d for s, c, d in seen if (s, c) == (sequence, context)} >= {1, 2, sequence}


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
        place=mesh.place(mesh.sequence),
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


def assert_equal(
    group: list[dict[str, Any]],
    expected: dict[str, Any],
    parts: list[list[int]],
    pack: Pack,
    tolerance: float,
) -> None:
    close, degree = {"rtol": tolerance, "atol": tolerance}, len(group) // len(parts)
    for run, part in enumerate(parts):
        neighbours = group[run * degree : (run + 1) * degree]
        velocity = torch.cat([rank["velocity"] for rank in neighbours])
        whole = rows_of(part, expected["velocity"], pack.layout.lengths)
        torch.testing.assert_close(velocity, whole, **close)
        losses = torch.stack([rank["losses"] for rank in neighbours]).sum(0)
        torch.testing.assert_close(losses, expected["losses"][part], **close)
    for name, gradient in expected["gradients"].items():
        shares = [rank["gradients"][name] for rank in group]  # every rank has one of every weight
        torch.testing.assert_close(torch.stack(shares).sum(0), gradient, **close)


def test_shard_pads_tokens_and_segments() -> None:
    pack = pack_of("does not divide", torch.float32)
    whole = [shard(pack.layout, [pack.x_NP], [pack.t_S], place=Place(rank, 4)) for rank in range(4)]
    assert [len(part.tokens[0]) for part in whole] == [10] * 4
    joined = torch.cat([part.tokens[0] for part in whole])
    assert torch.equal(joined[:39], pack.x_NP)
    assert torch.equal(joined[39:], torch.zeros(1, CONFIG.token_width))
    for part in whole:
        assert part.segments[0].tolist() == [*pack.t_S.tolist(), 0.0]
        assert part.layout.full_lengths == (30, 9, 1)


def test_each_run_of_neighbours_meets_its_own_queries() -> None:
    pack = pack_of("does not divide", torch.float32)  # 30 + 9 tokens, and one of padding
    parts = [shard(pack.layout, [pack.x_NP], place=Place(rank, 4, 2)).layout for rank in range(4)]
    assert [part.query_spans.lengths for part in parts] == [[20, 0, 0]] * 2 + [[10, 9, 1]] * 2
    assert [part.full_spans.lengths for part in parts] == [[30, 9, 1]] * 4


def test_shard_of_one_rank_is_the_pack_itself() -> None:
    pack = pack_of("does not divide", torch.float32)
    part = shard(pack.layout, [pack.x_NP], [pack.t_S], place=Place())
    assert part.layout.lengths == pack.layout.lengths
    assert torch.equal(part.tokens[0], pack.x_NP)
    assert torch.equal(part.segments[0], pack.t_S)


def compiled(context: int, keep: Keep) -> list[int]:
    """Graphs compiled for packs of each number of samples at each degree, and once more after."""
    torch.compile = partial(torch.compile, backend="aot_eager")  # type: ignore[assignment]  # ours alone
    config = ParallelConfig(processes_per_node=2, sequence=2, context=context)
    mesh, model = connect(config), model_of(torch.float32)
    for block in model.get_submodule("blocks").children():
        block.attention.attend = block.text_attention.attend = by_hand.attend
    share_tokens(model, partners(mesh))
    recompute(list(model.get_submodule("blocks").children()), Policy(keep))
    compile_blocks(model.get_submodule("blocks").children())
    counts = []
    for degree, name in list(product(mesh.degrees, COMPILED)) * 2:
        before, pack = graphs(), pack_of(name, torch.float32)
        run(model, pack, mesh.place(degree))
        counts.append(graphs() - before)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize(("context", "keep"), [(1, "attention"), (2, "none")])
def test_a_compiled_block_has_a_graph_for_each_degree(context: int, keep: Keep) -> None:
    """Whole ones: a block that was cut would have two."""
    for counts in run_ranks(compiled, 2, context, keep):
        assert counts == [1, 0, 0] * 2 + [0] * 6
