"""At which size a clip is read: a short list of shapes near its own, never above the run's area.

Few shapes keep compiled kernels few, and a portrait clip stays portrait. Packing then takes samples
of all shapes together (paper section 2.2: no buckets along the batch).
"""

import math
from typing import NamedTuple

from goku.config.data import SPATIAL_STRIDE, TEMPORAL_STRIDE, DataConfig
from goku.data.records import Clip, Kind

UNIT = 16  # pixels: VAE stride 8 x patch 2
_WIDE = 16 / 9  # the landscape ratio of a run whose frame is square
_SLACK = 1e-3  # of a frame or unit, against rounding in seconds and square roots


class Size(NamedTuple):
    """The pixels that a clip is read at."""

    frames: int  # 4k+1
    height: int
    width: int

    @property
    def latent(self) -> tuple[int, int, int]:
        """Latent frames, height and width (T, H, W)."""
        frames = (self.frames - 1) // TEMPORAL_STRIDE + 1
        return frames, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE


def size(clip: Clip, config: DataConfig) -> Size:
    """The size that a clip is read at, from its record alone."""
    height, width = fit(clip.height, clip.width, max_height=config.height, max_width=config.width)
    if clip.kind is Kind.IMAGE:
        return Size(1, height, width)
    return Size(clip_frames(clip.frames / clip.fps, config.fps, config.frames), height, width)


def fit(height: int, width: int, *, max_height: int, max_width: int) -> tuple[int, int]:
    """The shape nearest in aspect to height x width.

    Sides are multiples of 16; the area is at most max_height * max_width, so that a sample has at
    most as many tokens as the largest one of the run, whichever way it is turned.
    """
    aspect = math.log(width / height)
    shapes = (_shape(ratio, max_height * max_width) for ratio in _ratios(max_height, max_width))
    return min(shapes, key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))


def clip_frames(seconds: float, fps: float, max_frames: int) -> int:
    """The most frames 4k+1 that a clip of this length has at `fps`, `max_frames` at most."""
    frames = min(math.floor(seconds * fps + _SLACK), max_frames)
    return max(frames - 1, 0) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def _ratios(max_height: int, max_width: int) -> tuple[float, ...]:
    """Width / height: the run's own both ways, square, and both of 4:3."""
    wide = max(max_height, max_width) / min(max_height, max_width)
    wide = wide if wide > 1 else _WIDE
    return (wide, 1 / wide, 1.0, 4 / 3, 3 / 4)


def _shape(ratio: float, area: int) -> tuple[int, int]:
    """The largest shape of about this ratio: the short side rounds down, the long one to fit."""
    if ratio < 1:
        width, height = _shape(1 / ratio, area)
        return height, width
    height = max(UNIT, math.floor(math.sqrt(area / ratio) / UNIT + _SLACK) * UNIT)
    width = min(round(height * ratio / UNIT), area // height // UNIT) * UNIT
    return height, max(UNIT, width)
