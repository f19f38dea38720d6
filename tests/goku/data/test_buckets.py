"""Shapes keep the clip's orientation and never exceed the run's area."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.config.data import DataConfig
from goku.data.buckets import Size, clip_frames, fit, size
from goku.data.records import Clip, Kind
from tests.goku.data.fakes import clip

RUNS = [(64, 112), (96, 160), (128, 224), (256, 256), (288, 512), (480, 864), (720, 1280)]


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from(RUNS))
def test_a_shape_fits_the_area_and_keeps_the_orientation(
    height: int, width: int, run: tuple[int, int]
) -> None:
    fitted = fit(height, width, max_height=run[0], max_width=run[1])
    assert fitted[0] % 16 == fitted[1] % 16 == 0
    assert min(fitted) >= 16
    assert fitted[0] * fitted[1] <= run[0] * run[1]
    if max(height, width) / min(height, width) > 1.34:  # nearer to 4:3 than to square
        assert (fitted[1] > fitted[0]) == (width > height)


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from(RUNS))
def test_turning_the_clip_turns_the_shape(height: int, width: int, run: tuple[int, int]) -> None:
    upright = fit(height, width, max_height=run[0], max_width=run[1])
    turned = fit(width, height, max_height=run[0], max_width=run[1])
    ratios = [math.log(side[0] / side[1]) for side in (upright, turned)]
    assert abs(ratios[0] + ratios[1]) < 1e-9


@pytest.mark.parametrize("run", RUNS)
def test_a_clip_of_the_runs_own_shape_is_read_at_it(run: tuple[int, int]) -> None:
    assert fit(run[0] * 3, run[1] * 3, max_height=run[0], max_width=run[1]) == run


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        ((1080, 1920), (288, 512)),
        ((1920, 1080), (512, 288)),
        ((1000, 1000), (384, 384)),
        ((768, 1024), (320, 432)),
        ((1024, 768), (432, 320)),
        ((100, 2000), (288, 512)),
    ],
)
def test_the_shapes_of_288x512(native: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit(*native, max_height=288, max_width=512) == expected


@given(st.floats(0.05, 30), st.sampled_from([12.0, 23.976, 24.0]), st.integers(0, 24))
def test_clip_frames_are_the_most_4k_plus_1(seconds: float, fps: float, k: int) -> None:
    frames = clip_frames(seconds, fps, 4 * k + 1)
    assert frames % 4 == 1
    assert frames <= 4 * k + 1
    assert frames == 1 or frames <= seconds * fps + 0.01
    assert frames == 4 * k + 1 or frames + 4 > seconds * fps - 0.01


def test_whole_frames_survive_the_rounding_of_seconds() -> None:
    assert all(clip_frames(n / 23.976, 23.976, 1001) == n for n in range(1, 1000, 4))


def test_size_comes_from_the_record() -> None:
    config = DataConfig(height=64, width=112, frames=17, fps=12)
    portrait = clip("a", width=360, height=640, frames=48, fps=24.0)
    assert size(portrait, config) == Size(17, 112, 64)
    assert size(portrait, config).latent == (5, 14, 8)
    short: Clip = clip("b", width=640, height=360, frames=24, fps=24.0)
    assert size(short, config) == Size(9, 64, 112)
    image = clip("c", kind=Kind.IMAGE, width=500, height=500, frames=1, fps=0.0)
    assert size(image, config) == Size(1, 80, 80)
