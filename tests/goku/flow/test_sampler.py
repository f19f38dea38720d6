"""Euler on paths it must get exactly right, on one it must approach, and guidance."""

import math

import pytest
import torch
from torch import Tensor

from goku.config.training import FlowConfig
from goku.flow.path import velocity
from goku.flow.sampler import euler, guide
from goku.flow.timesteps import Timesteps


@pytest.mark.parametrize("steps", [1, 7])
def test_a_straight_path_is_exact_at_any_number_of_steps(steps: int) -> None:
    clean, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    times = Timesteps(FlowConfig()).schedule(steps, 4096)
    found = euler(lambda x, t: velocity(clean, noise), noise, times)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-14)


def test_a_known_target_is_reached_from_anywhere() -> None:
    """dx/dt = (clean - x) / (1 - t) is linear in x, and its paths are straight."""
    clean, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    times = Timesteps(FlowConfig()).schedule(9, 64)
    found = euler(lambda x, t: (clean - x) / (1 - t), noise, times)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-13)


def test_each_step_uses_the_velocity_at_its_start() -> None:
    asked: list[float] = []

    def growth(x: Tensor, t: float) -> Tensor:
        asked.append(t)
        return x

    found = euler(growth, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 0.5, 1.0]))
    assert asked == [0.0, 0.5]
    assert found.item() == 1.5**2


def test_more_steps_come_nearer_on_a_curved_path() -> None:
    def error(steps: int) -> float:
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return abs(euler(lambda x, t: x, torch.ones(1).double(), times).item() - math.e)

    assert error(200) == pytest.approx(error(100) / 2, rel=0.02)


def test_guidance() -> None:
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert guide(conditional, unconditional, 1.0).item() == 3
    assert guide(conditional, unconditional, 0.0).item() == 1
    assert guide(conditional, unconditional, 7.5).item() == 16
