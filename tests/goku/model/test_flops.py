"""The formula against torch's own counter, which sees every product that really runs.

All terms are compared at once: torch counts matrix products and the products inside attention,
and so does the formula. The maths kernel is forced, since torch does not count the CPU's own.
"""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from goku.config.model import ModelConfig
from goku.config.presets import SIZES
from goku.model.flops import forward_flops, step_flops
from tests.goku.model.packs import SMALL, SMALL_I2V, packed, random_model, samples


@pytest.mark.parametrize("config", [SMALL, SMALL_I2V], ids=["text", "image"])
@pytest.mark.parametrize("text_lengths", [(4, 1, 7), (0, 5, 0)])
def test_it_counts_every_product(config: ModelConfig, text_lengths: tuple[int, ...]) -> None:
    model, pack = random_model(config, torch.float32), samples(config, text_lengths=text_lengths)
    lengths = [len(sample.x_NP) for sample in pack]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        velocity_NP = packed(model, pack)
        assert counter.get_total_flops() == forward_flops(config, lengths, text_lengths)
        velocity_NP.sum().backward()
    # a gradient of the modulation is summed over its sample by a product with a one-hot matrix
    sums = (6 * config.layers + 2) * 2 * len(lengths) * sum(lengths) * config.width
    assert counter.get_total_flops() - sums == step_flops(config, lengths, text_lengths)


def test_the_8b_model_costs_what_the_paper_s_sizes_imply() -> None:
    config = ModelConfig.build(SIZES["8b"])
    four_seconds_720p = 25 * 45 * 80
    assert forward_flops(config, [four_seconds_720p], [256]) == pytest.approx(4.9e15, rel=0.05)


def test_many_images_cost_less_than_one_clip_of_as_many_tokens() -> None:
    config = ModelConfig.build(SIZES["8b"])
    images = forward_flops(config, [3600] * 61, [0] * 61)
    assert forward_flops(config, [3600 * 61], [0]) > 5 * images


def test_a_step_of_clips_is_three_forwards_and_one_of_images_a_little_less() -> None:
    config = ModelConfig.build(SIZES["2b"])
    for lengths, share in (((40_960,), 3.0), ((256,) * 64, 2.87)):
        text_lengths = (256,) * len(lengths)
        forward = forward_flops(config, lengths, text_lengths)
        assert step_flops(config, lengths, text_lengths) / forward == pytest.approx(share, abs=0.01)
