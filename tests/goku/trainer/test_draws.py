"""Noise and t depend on seed and ordinal alone."""

import torch

from goku.trainer import draws

CPU = torch.device("cpu")


def test_uniforms_are_a_function_of_seed_and_ordinal() -> None:
    whole = draws.uniforms(3, range(10))
    assert torch.equal(whole[4:7], draws.uniforms(3, [4, 5, 6]))
    assert not torch.equal(whole, draws.uniforms(4, range(10)))
    assert whole.dtype == torch.float64


def test_uniforms_are_uniform() -> None:
    u = draws.uniforms(0, range(4000))
    assert u.min() > 0
    assert u.max() < 1
    counts = torch.histc(u.float(), bins=10, min=0, max=1)
    assert (counts - 400).abs().max() < 80  # four standard deviations


def test_noise_of_a_sample_does_not_depend_on_its_pack() -> None:
    pack = draws.noise(1, [5, 6, 7], [3, 4, 2], width=8, device=CPU)
    alone = draws.noise(1, [6], [4], width=8, device=CPU)
    assert torch.equal(pack[3:7], alone)


def test_noise_is_standard_normal() -> None:
    x = draws.noise(0, range(50), [100] * 50, width=8, device=CPU)
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.std()) - 1) < 0.02


def test_no_two_samples_have_the_same_noise() -> None:
    count = 20_000  # with 22 random bits of a seed, some 48 pairs would
    x_NP = draws.noise(0, range(count), [1] * count, width=2, device=CPU)
    assert len(x_NP.unique(dim=0)) == count
