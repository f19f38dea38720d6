"""Eq. 1: from noise at t = 0 to clean at t = 1, at constant velocity."""

import torch

from goku.flow.path import interpolate, velocity


def test_the_ends_are_noise_and_clean() -> None:
    clean, noise = torch.randn(2, 5, 3)
    assert interpolate(clean, noise, 0.0).equal(noise)
    assert interpolate(clean, noise, 1.0).equal(clean)


def test_each_leading_row_has_its_own_time() -> None:
    clean, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    t_N = torch.rand(5, dtype=torch.float64)
    x_NP = interpolate(clean, noise, t_N)
    for row, t in enumerate(t_N.tolist()):
        torch.testing.assert_close(x_NP[row], t * clean[row] + (1 - t) * noise[row])
    assert interpolate(clean, noise, t_N[:, None]).equal(x_NP)
    assert interpolate(clean, noise, t_N[0])[0].equal(x_NP[0])


def test_velocity_is_the_derivative_of_the_path() -> None:
    clean, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    step = interpolate(clean, noise, 0.75) - interpolate(clean, noise, 0.25)
    torch.testing.assert_close(step / 0.5, velocity(clean, noise))
