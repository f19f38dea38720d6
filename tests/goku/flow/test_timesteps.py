"""Timesteps against the standard library's normal distribution and SD3's shift as written."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goku.config.training import FlowConfig
from goku.flow.timesteps import Timesteps, stratified

UNIFORM = FlowConfig(density="uniform", shift="none")
configs = st.builds(
    FlowConfig,
    density=st.sampled_from(["uniform", "logit_normal"]),
    logit_mean=st.floats(-2, 2),
    logit_std=st.floats(0.3, 2),
    shift=st.sampled_from(["none", "resolution"]),
    shift_base_tokens=st.integers(16, 4096),
)
sizes = st.integers(1, 220_000)


def one(config: FlowConfig, u: float, tokens: int) -> float:
    u_S = torch.tensor([u], dtype=torch.float64)
    return Timesteps(config).quantile(u_S, torch.tensor([tokens])).item()


@given(configs, st.floats(0.001, 0.999), sizes)
def test_quantile_is_the_inverse_cdf_then_the_shift(
    config: FlowConfig, u: float, tokens: int
) -> None:
    t = u
    if config.density == "logit_normal":
        t = 1 / (1 + math.exp(-NormalDist(config.logit_mean, config.logit_std).inv_cdf(u)))
    if config.shift == "resolution":
        s, f = 1 - t, math.sqrt(tokens / config.shift_base_tokens)
        t = 1 - f * s / (1 + (f - 1) * s)
    assert one(config, u, tokens) == pytest.approx(t, rel=1e-6, abs=1e-9)


@given(configs, sizes)
def test_quantile_is_monotone_inside_the_interval(config: FlowConfig, tokens: int) -> None:
    t_S = Timesteps(config).quantile(stratified(100), torch.full((100,), tokens))
    assert t_S.diff().gt(0).all()
    assert 0 < t_S.min() < t_S.max() < 1


def test_each_sample_shifts_by_its_own_size() -> None:
    config = FlowConfig(shift_base_tokens=256)
    tokens_S = torch.tensor([256, 1024, 64])
    t_S = Timesteps(config).quantile(torch.full((3,), 0.5).double(), tokens_S)
    assert t_S.tolist() == pytest.approx([1 / 2, 1 / 3, 2 / 3])


def test_uniform_without_shift_is_u_itself_in_its_dtype() -> None:
    u_S = torch.rand(8)
    assert Timesteps(UNIFORM).quantile(u_S, torch.ones(8)).equal(u_S)


def test_the_closed_ends_stay_finite() -> None:
    for config in (UNIFORM, FlowConfig()):
        t_S = Timesteps(config).quantile(torch.tensor([0.0, 1.0]), torch.tensor([999, 999]))
        assert t_S.tolist() == [0, 1]


@given(configs, st.integers(1, 60), sizes)
def test_schedule_climbs_from_exactly_0_to_exactly_1(
    config: FlowConfig, steps: int, tokens: int
) -> None:
    times = Timesteps(config).schedule(steps, tokens)
    assert len(times) == steps + 1
    assert (times[0].item(), times[-1].item()) == (0.0, 1.0)
    assert times.diff().gt(0).all()


def test_schedule_is_the_shifted_uniform_grid() -> None:
    uniform = Timesteps(FlowConfig(density="uniform", shift_base_tokens=100))
    inner = uniform.quantile(torch.tensor([0.25, 0.5, 0.75]).double(), torch.full((3,), 400))
    logit_normal = Timesteps(FlowConfig(shift_base_tokens=100))
    torch.testing.assert_close(logit_normal.schedule(4, 400)[1:-1], inner)


def test_stratified_is_the_middle_of_each_stratum() -> None:
    assert stratified(4).tolist() == [0.125, 0.375, 0.625, 0.875]
