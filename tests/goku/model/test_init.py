"""Initial weights: reproducible, DiT's, and the published sizes."""

from dataclasses import replace

import pytest
import torch

from goku.config.model import ModelConfig
from goku.config.presets import SIZES
from goku.model import build
from tests.goku.model.packs import SMALL, SMALL_I2V, packed, random_model, samples


@pytest.mark.parametrize(("size", "billions"), [("2b", 2.005), ("8b", 8.055)])
def test_the_blocks_hold_the_published_number_of_parameters(size: str, billions: float) -> None:
    model = build(ModelConfig.build(SIZES[size]), seed=0, device="meta")
    parameters = sum(parameter.numel() for parameter in model.blocks.parameters())
    assert round(parameters / 1e9, 3) == billions


def test_the_seed_decides_every_drawn_weight() -> None:
    first, again, other = (build(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    for name, weight in first.items():
        assert weight.equal(again[name]), name
        drawn = weight.std() > 0 if weight.numel() > 1 else False
        assert weight.equal(other[name]) != drawn, name


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build(SMALL, seed=1)
    assert torch.rand(1).equal(expected)


def test_weights_are_the_same_in_another_dtype_or_depth() -> None:
    model = build(SMALL, seed=0)
    deeper = build(SMALL.model_copy(update={"layers": 3}), seed=0).state_dict()
    narrow = build(SMALL, seed=0, dtype=torch.bfloat16).state_dict()
    for name, weight in model.state_dict().items():
        assert deeper[name].equal(weight)
        assert narrow[name].equal(weight.bfloat16())


def test_linears_are_xavier_uniform_and_differ() -> None:
    block = build(SMALL, seed=0).blocks[0]
    hidden = block.mlp[0].weight.detach()
    bound = (6 / (hidden.shape[0] + hidden.shape[1])) ** 0.5
    assert 0.95 * bound < hidden.abs().max() <= bound
    assert hidden.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not block.attention.query.weight.equal(block.attention.key.weight)


def test_a_new_model_predicts_zero_and_its_gates_are_shut() -> None:
    model = build(SMALL, seed=0, dtype=torch.float64)
    assert packed(model, samples(SMALL)).eq(0).all()
    for block in model.blocks:
        assert all(vector.eq(0).all() for vector in block.modulation(torch.randn(2, 32).double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_image_conditioned_model_starts_as_the_text_conditioned_one(dtype: torch.dtype) -> None:
    text, image = random_model(SMALL, dtype), build(SMALL_I2V, seed=0, dtype=dtype)
    missing = image.load_state_dict(text.state_dict(), strict=False)
    assert missing.missing_keys == ["align.linear.weight", "align.linear.bias"]
    assert not missing.unexpected_keys
    pack = samples(SMALL_I2V)
    assert packed(image, pack).equal(packed(text, [replace(s, reference_NP=None) for s in pack]))
