"""Exchanges under way: order of starts and waits, late ranks, recomputation, compiled blocks."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor, nn
from torch._C._distributed_c10d import _get_work_registry_size
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from goku.config.errors import ConfigError
from goku.config.memory import Keep, Policy
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.flow.loss import sample_losses
from goku.model.init import build
from goku.nn.layout import Layout
from goku.nn.rope import Rotation
from goku.nn.spans import Spans
from goku.parallel.compile import compile_blocks
from goku.parallel.mesh import Mesh, connect
from goku.parallel.overlap import overlap
from goku.parallel.recompute import recompute
from goku.parallel.sequence import partners, shard, share_tokens
from tests.goku.nn import by_hand
from tests.ranks import run_ranks

CONFIG = ModelConfig(layers=2, width=32, heads=4, text_width=12, latent_channels=4)
KEEPS: tuple[Keep, ...] = ("none", "products", "mlp", "attention", "full")
LATE_SECONDS = 0.1
NAMES = {
    "_c10d_functional::all_to_all_single": "start",
    "_c10d_functional::wait_tensor": "wait",
    "goku::attend_by_hand": "attend",
    "goku::attend_by_hand_backward": "attend back",
    "aten::mm": "product",
    "aten::addmm": "product",
}


def model_of(mesh: Mesh, *, overlapped: bool) -> nn.Module:
    """Shared by the mesh's ranks, with attention that is one operator, without zero weights."""
    model = build(CONFIG, seed=0, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    for block in model.get_submodule("blocks").children():
        for part in ("attention", "text_attention"):
            attention: Any = block.get_submodule(part)
            attention.attend = by_hand.attend
    if mesh.sequence > 1:
        share_tokens(model, partners(mesh))
        if overlapped:
            overlap(model)
    return model


def gradients(model: nn.Module, mesh: Mesh) -> dict[str, Tensor]:
    """Of a loss over a pack, summed over the ranks that share it."""
    layout = Layout.build([(1, 3, 3), (3, 2, 5), (1, 1, 1)], [3, 1, 2])
    torch.manual_seed(2)
    x_NP, target_NP = torch.randn(2, layout.tokens, CONFIG.token_width)
    t_S, text_MY = torch.rand(layout.segments), torch.randn(6, CONFIG.text_width)
    mine = shard(layout, [x_NP, target_NP], [t_S], place=mesh.place(mesh.sequence))
    model.zero_grad()
    v_NP = model(mine.tokens[0], mine.segments[0], text_MY, mine.layout)
    sample_losses(v_NP, mine.tokens[1], mine.layout)[: layout.segments].sum().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found if mesh.sequence == 1 else {n: mesh.sum(g) for n, g in found.items()}


def connected(world: int, context: int = 1) -> Mesh:
    return connect(ParallelConfig(processes_per_node=world, sequence=world, context=context))


def expected_gradients() -> dict[str, Tensor]:
    """Of one plain process."""
    alone = Mesh(0, 1, 1, 1, None, torch.device("cpu"))
    return gradients(model_of(alone, overlapped=False), alone)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], what: object) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        off = (found[name] - gradient).norm() / gradient.norm()
        assert off < 1e-5, (what, name)


def recomputed(world: int) -> None:
    expected = expected_gradients()
    for context, keep in itertools.product((1, 2), KEEPS):
        mesh = connected(world, context)
        model = model_of(mesh, overlapped=True)
        recompute(list(model.get_submodule("blocks").children()), Policy(keep))
        assert_equal(gradients(model, mesh), expected, (world, context, keep))
        assert _get_work_registry_size() == 0


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_gradients_with_any_recomputation_are_those_of_one_process(world: int) -> None:
    run_ranks(recomputed, world, world)


def one_late(late: int, context: int) -> float:
    """Seconds of a step on this rank, where the late one sleeps before all that it sends."""
    mesh = connected(2, context)
    expected, model = expected_gradients(), model_of(mesh, overlapped=True)
    if mesh.rank == late:
        for block in model.get_submodule("blocks").children():
            attention: Any = block.get_submodule("attention")
            attention.send = late_before(attention.send)
            attention.attend.attend = late_behind(attention.attend.attend)
    started = time.monotonic()
    assert_equal(gradients(model, mesh), expected, late)
    return time.monotonic() - started


def late_before(send: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def send_late(x_NAK: Tensor, k_spans: Spans, *, keys: bool) -> Tensor:
        time.sleep(LATE_SECONDS)
        return send(x_NAK, k_spans, keys=keys)

    return send_late


def late_behind(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`attend` whose gradients of queries, keys and values are late."""

    def attend_late(
        q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor, q_spans: Spans, k_spans: Spans
    ) -> Tensor:
        for x_NAK in (q_NAK, k_NAK, v_NAK):
            x_NAK.register_hook(lambda _: time.sleep(LATE_SECONDS))
        return attend(q_NAK, k_NAK, v_NAK, q_spans, k_spans)

    return attend_late


@pytest.mark.slow
@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("late", [0, 1])
def test_what_a_late_rank_sends_is_waited_for(late: int, context: int) -> None:
    sleeps = CONFIG.layers * 3 * 2
    for seconds in run_ranks(one_late, 2, late, context):
        assert seconds > (sleeps - 1) * LATE_SECONDS


def attended(attention: nn.Module, layout: Layout) -> tuple[Tensor, Tensor]:
    """An input that asks for its gradient, and what attention makes of it."""
    torch.manual_seed(3)
    x_ND = torch.randn(layout.tokens, CONFIG.width, requires_grad=True)
    rotation = Rotation.build(
        layout.position_N3, head_width=CONFIG.head_width, theta=1e4, dtype=torch.float32
    )
    return x_ND, attention(x_ND, layout, rotation)


def gradients_through(attention: nn.Module, layout: Layout) -> list[Tensor]:
    x_ND, y_ND = attended(attention, layout)
    return list(torch.autograd.grad(y_ND.square().sum(), [x_ND, *attention.parameters()]))


def order(compiled: bool, keep: Keep) -> tuple[list[str], list[str]]:
    """What ran in the forward and backward of a self-attention that two ranks share."""
    mesh = connected(2)
    attention = model_of(mesh, overlapped=True).get_submodule("blocks.0.attention")
    layout = Layout.build([(1, 3, 3), (3, 2, 5), (1, 1, 1)], [3, 1, 2]).shard(mesh.rank, 2)
    expected, made = gradients_through(attention, layout), attended(attention, layout)[1]
    recompute([attention], Policy(keep))
    if compiled:
        compile_blocks([attention], in_order=True)
    with inductor.patch(max_fusion_size=1):  # as on a GPU, whose row kernels are opaque to it
        for found, gradient in zip(gradients_through(attention, layout), expected, strict=True):
            torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)
        with torch.no_grad():  # another graph, of validation and sampling
            torch.testing.assert_close(
                attended(attention, layout)[1], made.detach(), rtol=1e-5, atol=1e-5
            )
    done: list[Tensor] = []
    forward = seen(lambda: done.append(attended(attention, layout)[1]))
    backward = seen(lambda: done[0].square().sum().backward())
    assert _get_work_registry_size() == 0
    assert not counters["graph_break"]
    return forward, backward


def seen(run: Callable[[], object]) -> list[str]:
    """Products, attention, starts and waits in the order in which they ran, on all threads."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    events = sorted(profiled.events() or (), key=lambda event: event.time_range.start)
    return [NAMES[event.name] for event in events if event.name in NAMES]


SENT = ["product", "start"] * 3 + ["wait"] * 3  # values, keys, queries
BACK = ["attend back", *["start"] * 3, *["wait", "product", "product"] * 3]


@pytest.mark.slow
def test_starts_and_waits_have_the_projections_between_them() -> None:
    for forward, backward in run_ranks(order, 2, False, "none"):
        assert forward == [*SENT, "attend", "product"]
        assert backward == ["product", "product", *BACK]  # those of the result come first


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("keep", ["none", "attention"])
def test_a_compiled_block_keeps_that_order(keep: Keep) -> None:
    again = SENT if keep == "attention" else []
    for forward, backward in run_ranks(order, 2, True, keep, timeout_seconds=350):
        assert forward == [*SENT, "attend", "product"]
        assert backward == ["product", "product", *again, *BACK]


def test_alone_there_is_nothing_to_overlap() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.sequence=1"):
        ParallelConfig.build({"overlap": "on"})
