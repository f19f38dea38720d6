"""The plain baseline computes what a pack computes, of every sample, and knows what fits."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from goku.bench.gain import plain_ways
from goku.bench.plain import Batched, Keep, attend, make_plain, micro_batches, sample_bytes
from goku.bench.shapes import PACKS, Pack
from goku.config import ConfigError
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.presets import SIZES
from goku.model import build
from goku.nn.layout import Layout
from tests.goku.model.packs import SMALL, random_model

GIB = 2**30
H200 = int(139.8 * GIB)
TWO_B = ModelConfig.build(SIZES["2b"])


def parallel(**values: object) -> ParallelConfig:
    return ParallelConfig.build({"processes_per_node": 1, "engine": "fsdp2", **values})


def test_micro_batches_have_every_sample_once_and_one_length_each() -> None:
    lengths = PACKS["joint-40960"].lengths
    batches = micro_batches(lengths, {24_576: 1, 1_024: 3, 256: 30})
    assert sorted(number for numbers in batches for number in numbers) == list(range(len(lengths)))
    assert all(len({lengths[number] for number in numbers}) == 1 for numbers in batches)
    assert [len(numbers) for numbers in batches] == [1, 2, 3, 3, 16, 16]


def test_lengths_may_come_in_any_order() -> None:
    assert micro_batches((4, 9, 4, 9, 9), {4: 8, 9: 2}) == [[0, 2], [1], [3, 4]]


def test_where_a_sample_has_no_place_there_are_no_batches() -> None:
    assert micro_batches((4, 9), {4: 8, 9: 0}) == []


def gradients(model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Of a loss on fixed samples."""
    generator = torch.Generator().manual_seed(3)
    draw = {"generator": generator, "dtype": torch.float64}
    x_NP = torch.randn(layout.tokens, SMALL.token_width, **draw)
    t_S = torch.rand(layout.segments, **draw)
    text_MY = torch.randn(sum(layout.text_lengths), SMALL.text_width, **draw)
    model(x_NP, t_S, text_MY, layout).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("keep", ["none", "full"])
def test_plain_parts_give_the_gradients_of_a_pack(keep: Keep) -> None:
    layout = Layout.build([(3, 2, 2)] * 4, [5] * 4)
    expected = gradients(random_model(SMALL), layout)
    model = random_model(SMALL)
    make_plain(model, keep)
    found = gradients(model, layout)
    assert isinstance(model.blocks[1].rowwise, Batched)
    assert model.blocks[1].text_attention.attend is attend
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


def remembered(layers: int, text: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that a bf16 forward of 8 samples of 64 tokens keeps, weights left out."""
    # a GPU's RMSNorm keeps what a LayerNorm keeps, a CPU's several rows in fp32
    monkeypatch.setattr(
        nn.RMSNorm, "forward", lambda norm, x: layer_norm(x, norm.normalized_shape, norm.weight)
    )
    config = ModelConfig(layers=layers, width=256, heads=4, text_width=64, latent_channels=4)
    model = build(config, seed=0).bfloat16()
    make_plain(model, "none")
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    layout = Layout.build([(1, 8, 8)] * 8, [text] * 8)
    x_NP, text_MY = torch.randn(512, config.token_width), torch.randn(8 * text, 64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        v_NP = model(x_NP, torch.rand(8), text_MY, layout)
    assert v_NP.requires_grad
    return sum(size for storage, size in kept.items() if storage not in weights)


def test_what_is_remembered_is_what_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = remembered(5, 32, monkeypatch) - remembered(3, 32, monkeypatch)
    five, three = (
        sample_bytes(ModelConfig(layers=n, width=256, heads=4), 64, 32, "none") for n in (5, 3)
    )
    assert found == pytest.approx(8 * (five - three), rel=0.03)


def test_2b_needs_no_more_micro_batches_on_an_h200_than_there_are_lengths() -> None:
    for engine in ("fsdp2", "deepspeed"):
        for name, count in (("joint-40960", 3), ("images-64", 1)):
            ways = plain_ways(TWO_B, PACKS[name], parallel(engine=engine), H200)
            assert [way.keep for way in ways] == ["none", "full"]
            assert [len(way.batches) for way in ways] == [count, count]


def test_where_memory_is_short_blocks_are_recomputed_in_more_micro_batches() -> None:
    (way,) = plain_ways(TWO_B, PACKS["joint-40960"], parallel(), 65 * GIB)
    assert way.keep == "full"
    assert len(way.batches) == 3
    ways = plain_ways(TWO_B, PACKS["images-64"], parallel(), 80 * GIB)
    assert [len(way.batches) for way in ways] == [2, 1]


def test_what_has_no_plain_way_is_the_users_error() -> None:
    eight_b = ModelConfig.build(SIZES["8b"])
    with pytest.raises(ConfigError, match=r"--plain video-219600: .* 219600 tokens does not fit"):
        plain_ways(eight_b, PACKS["video-219600"], parallel(), H200)
    shared = parallel(processes_per_node=2, sequence=2)
    with pytest.raises(ConfigError, match=r"parallel\.sequence=2"):
        plain_ways(TWO_B, Pack("small", (8, 8)), shared, H200)
