"""What waits on the host comes back as it was, in time and once; no memory is lost."""

import gc
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from goku.bench.shapes import Pack
from goku.bench.training import TrainingStep
from goku.config.memory import Policy
from goku.config.model import ModelConfig
from goku.model import Goku, build
from goku.parallel import lane as lanes
from goku.parallel import tune
from goku.parallel.lane import Lane, Pages
from goku.parallel.mesh import connect
from goku.parallel.offload import offload
from goku.parallel.recompute import recompute
from tests.goku.model.packs import SMALL, Sample, packed, random_model, samples
from tests.goku.nn import by_hand
from tests.ranks import run_ranks

CPU = torch.device("cpu")
CONFIG = SMALL.model_copy(update={"layers": 4})
TOKENS = 22  # of `samples`
ROWS = TOKENS * CONFIG.width * 8  # bytes of the tokens in float64
LSE = CONFIG.heads * TOKENS * 4
BLOCK = 3 * ROWS + 2 * LSE  # input and two attentions; plain products are not kept

Gradients = dict[str, Tensor]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that every tensor lies on several."""
    monkeypatch.setattr(lanes, "_PAGE", 1000)


class Watched(Lane):
    """A lane that tells what goes over it."""

    def __init__(self, device: torch.device = CPU, host_bytes: int = 0) -> None:
        super().__init__(device, host_bytes)
        self.left: list[list[int]] = []  # bytes of each tensor
        self.addresses: list[list[int]] = []
        self.events: list[str] = []

    def out(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.left.append([len(tensor) for tensor in tensors])
        self.addresses.append([tensor.data_ptr() for tensor in tensors])
        self.events.append("out")
        return super().out(tensors)

    def back(self, pages: list[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        self.events.append("back")
        return super().back(pages, sizes)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is held."""
        return len(self.pages.free) == self.pages.made and not self._moving


def by_hand_model() -> Goku:
    model = random_model(CONFIG)
    for block in model.blocks:
        block.attention.attend = block.text_attention.attend = by_hand.attend
    return model


def model_of(policy: Policy, lane: Lane) -> Goku:
    """Blocks that keep by the policy."""
    model = by_hand_model()
    recompute(list(model.blocks), policy)
    offload(list(model.blocks), policy, lane, compiled=False, least_bytes=1)
    return model


def gradients(model: Goku, *packs: list[Sample]) -> Gradients:
    """Of the packs' losses, each with a backward of its own, added up."""
    model.zero_grad()
    for pack in packs or [samples(CONFIG)]:
        packed(model, pack).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: Gradients, expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.fixture(scope="module")
def expected() -> Gradients:
    return gradients(model_of(Policy("none"), Lane(CPU)))


@pytest.mark.parametrize("every", [1, 2, 3, 9])
def test_gradients_are_those_of_a_model_that_keeps_everything(
    every: int, expected: Gradients
) -> None:
    lane = Watched()
    model = model_of(Policy("offload", every), lane)
    for _ in range(3):
        assert_same(gradients(model), expected)
        assert lane.idle
    assert len(lane.left) == 3 * max(0, CONFIG.layers // every - 1)


def test_a_block_keeps_its_input_and_two_attentions_on_the_host_and_the_last_one_does_not() -> None:
    lane = Watched()
    gradients(model_of(Policy("offload"), lane))
    assert lane.left == [[ROWS, ROWS, LSE, ROWS, LSE]] * 3
    assert lane.pages.made == 3 * -(-BLOCK // 1000)


def test_each_block_is_fetched_while_the_one_after_it_goes_backward() -> None:
    lane = Watched()
    model = model_of(Policy("offload"), lane)
    for number, block in enumerate(model.blocks):
        block.modulation.register_full_backward_hook(  # the last part of a block to be done
            lambda *_, number=number: lane.events.append(f"block {number}")
        )
    gradients(model)
    forward, backward = lane.events[:3], lane.events[3:]
    assert forward == ["out"] * 3
    assert backward == ["back", "block 3", "back", "block 2", "back", "block 1", "block 0"]


def test_nothing_is_used_before_it_has_arrived(expected: Gradients) -> None:
    class Late(Watched):
        """Copies when it is waited for and not before, as a stream that is busy."""

        def _copy(self, pairs: Iterable[tuple[Tensor, Tensor]], moving: Sequence[Tensor]) -> None:
            queue.extend(pairs)
            self._moving += moving

        def back(self, pages: list[Tensor], sizes: Sequence[int]) -> list[Tensor]:
            return [tensor.fill_(255) for tensor in super().back(pages, sizes)]  # NaN

        def settle(self) -> None:
            for source, target in queue:
                target.copy_(source)
            queue.clear()
            super().settle()

    queue: list[tuple[Tensor, Tensor]] = []
    model = model_of(Policy("offload"), Late())
    for _ in range(2):
        assert_same(gradients(model), expected)


def test_weights_and_what_all_blocks_share_stay(expected: Gradients) -> None:
    lane, staying = Watched(), set[int]()
    model = by_hand_model()  # computes nothing again: hooks see every tensor
    offload(list(model.blocks), Policy("offload"), lane, compiled=True, least_bytes=1)

    def look(_block: Any, arguments: tuple[Any, ...]) -> None:
        x_ND, condition_SD, text_MY, layout, rotation = arguments
        shared = condition_SD, text_MY, layout.segment_N, rotation.cos_NF, rotation.sin_NF
        staying.update(tensor.data_ptr() for tensor in (*shared, *model.parameters()))
        inputs.append(x_ND.data_ptr())

    inputs: list[int] = []
    for block in model.blocks:
        block.register_forward_pre_hook(look)
    assert_same(gradients(model), expected)
    for leaving, input_ in zip(lane.addresses, inputs[:-1], strict=True):
        assert input_ in leaving
        assert not staying & set(leaving)


def test_a_storage_leaves_once_however_many_views_of_it_are_kept() -> None:
    class Squares(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.sin()
            return (y[1:] * y[:-1]).sum() + (y.T * y.T).sum()

    def gradient(*blocks: torch.nn.Module) -> Tensor:
        x = torch.linspace(0, 1, 24).reshape(4, 6).requires_grad_()
        return torch.autograd.grad(sum(block(x) for block in blocks), x)[0]

    lane, blocks = Watched(), [Squares(), Squares()]
    expected = gradient(*blocks)
    offload(blocks, Policy("offload"), lane, compiled=True, least_bytes=1)
    assert torch.equal(gradient(*blocks), expected)
    assert lane.left == [[24 * 4, 24 * 4]]  # x and its sine


def test_pages_serve_packs_of_all_sizes_and_are_as_many_as_the_longest_needs() -> None:
    lane = Watched()
    model = model_of(Policy("offload"), lane)
    short, long = samples(CONFIG)[:1], samples(CONFIG)
    gradients(model, short)
    few = lane.pages.made
    gradients(model, long)
    many = lane.pages.made
    gradients(model, short, long, short)
    assert few < many == lane.pages.made
    assert lane.idle


def test_pages_that_are_foreseen_are_taken_at_once() -> None:
    pages = Pages(2500, pinned=False)
    assert pages.made == 3
    pages.free += pages.take(2999)
    assert pages.made == 3


def test_micro_batches_add_up() -> None:
    short, long = samples(CONFIG)[:1], samples(CONFIG)
    expected = gradients(model_of(Policy("none"), Lane(CPU)), short, long)
    assert_same(gradients(model_of(Policy("offload"), Watched()), short, long), expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_before_their_backwards(order: tuple[int, int]) -> None:
    packs = samples(CONFIG)[:1], samples(CONFIG)

    def both(policy: Policy, lane: Lane) -> Gradients:
        model = model_of(policy, lane)
        losses = [packed(model, pack).square().sum() for pack in packs]
        for index in order:
            losses[index].backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    lane = Watched()
    assert_same(both(Policy("offload"), lane), both(Policy("none"), Lane(CPU)))
    assert lane.idle


def test_without_gradients_nothing_leaves() -> None:
    lane = Watched()
    model, pack = model_of(Policy("offload"), lane), samples(CONFIG)
    with torch.no_grad():
        found = packed(model, pack)
    assert torch.equal(found, packed(model_of(Policy("none"), Lane(CPU)), pack))
    assert lane.left == []


class Broken(Exception):
    pass


def interrupted(model: Goku, where: str) -> None:
    """A step that breaks in the third block's forward or backward, or between the two."""
    if where == "between":
        packed(model, samples(CONFIG))
        raise Broken

    def fail(*_: Any) -> None:
        raise Broken

    block = model.blocks[2].mlp
    hook = block.register_forward_hook if where == "forward" else block.register_full_backward_hook
    handle = hook(fail)
    try:
        gradients(model)
    finally:
        handle.remove()


@pytest.mark.parametrize("where", ["forward", "between", "backward"])
def test_a_step_that_breaks_leaves_nothing_behind(where: str, expected: Gradients) -> None:
    lane = Watched()
    model = model_of(Policy("offload"), lane)
    gradients(model)
    for _ in range(2):
        with pytest.raises(Broken):
            interrupted(model, where)
        gc.collect()  # a traceback holds the graph
        assert len(lane.pages.free) == lane.pages.made
    assert_same(gradients(model), expected)
    assert lane.idle
    assert lane.pages.made == 3 * -(-BLOCK // 1000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_hooks_see_what_a_compiled_block_remembers() -> None:
    def compiled(policy: Policy) -> Goku:
        """Its gradients are not the eager model's: decision 0010."""
        model = by_hand_model()
        recompute(list(model.blocks), policy)
        for block in model.blocks:
            block.forward = torch.compile(block.forward, backend="aot_eager", dynamic=False)
        offload(list(model.blocks), policy, lane, compiled=True, least_bytes=1)
        return model

    lane = Watched()
    expected, model = gradients(compiled(Policy("mlp"))), compiled(Policy("offload"))
    for _ in range(2):
        assert_same(gradients(model), expected)
        assert lane.idle
    assert [sorted(sizes) for sizes in lane.left] == [[LSE, LSE, ROWS, ROWS, ROWS]] * 6


MODEL = ModelConfig(layers=3, width=64, heads=4, text_width=16, latent_channels=4)
PACK = Pack("small", (40, 9, 17), text=11)  # no activation is as large as a matrix


WAYS: list[dict[str, Any]] = [
    {"engine": "deepspeed", "zero_stage": 2},
    {"engine": "deepspeed", "zero_stage": 3},
    {"engine": "fsdp2", "zero_stage": 2},
    {"engine": "fsdp2", "zero_stage": 3},
    {"engine": "fsdp2", "zero_stage": 3, "sequence": 2},
]


def trained(way: dict[str, Any], keep: str) -> list[Tensor]:
    """Adam's first moments after two steps of two ranks."""
    parallel = PACK.parallel(processes_per_node=2, precision="fp32", recompute=keep, **way)
    step = TrainingStep(MODEL, PACK, parallel, connect(parallel))
    for _ in range(2):
        step.run()
    return [fragment.exp_avg.clone() for fragment in step.engine.fragments()]


def compared(ways: list[dict[str, Any]], plain: bool) -> list[tuple[bool, list[int]]]:
    """Whether `offload` trains as `none` does, way by way, and what has left for it."""
    found = []
    for way in ways:
        expected, made = trained(way, "none"), list[Watched]()

        def lane(device: torch.device, nbytes: int, made: list[Watched] = made) -> Watched:
            made.append(Watched(device, nbytes))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tune, "Lane", lane)
            patch.setattr(tune, "offload", partial(_small, plain=plain))
            if plain:
                patch.setattr(tune, "recompute", lambda *_: None)
            moments = trained(way, "offload")
        same = all(torch.equal(a, b) for a, b in zip(moments, expected, strict=True))
        found.append((same, made[0].left[0]))
    return found


def _small(
    blocks: list[torch.nn.Module], policy: Policy, lane: Lane, *, compiled: bool, plain: bool
) -> None:
    offload(blocks, policy, lane, compiled=compiled or plain, least_bytes=1)


@pytest.mark.slow
def test_every_engine_trains_as_without_it() -> None:
    for rank in run_ranks(compared, 2, WAYS, False):
        for way, (same, left) in zip(WAYS, rank, strict=True):
            assert same, way
            assert len(left) >= 1, way


@pytest.mark.slow
def test_gathered_weights_stay_with_fsdp2() -> None:
    """Hooks see every weight, as those around a compiled block do."""
    ways = [way for way in WAYS if way["engine"] == "fsdp2"]
    model = build(MODEL, seed=0, device="meta")
    weights = {4 * p.numel() for p in model.blocks.parameters() if p.ndim >= 2}
    for rank in run_ranks(compared, 2, ways, True):
        for way, (same, left) in zip(ways, rank, strict=True):
            assert same, way
            assert len(left) >= 10, way
            assert not weights & set(left), way
