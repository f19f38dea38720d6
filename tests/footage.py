"""Synthetic footage with known cuts and known motion, written as small mp4 and png files.

A shot is a window that slides over a fixed noise texture, `step` pixels a frame to the right.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from goku.config.curation import CurationConfig
from goku.data.video import encode_mp4, encode_png

Pixels = NDArray[np.uint8]
SMALL: Mapping[str, object] = {
    "min_duration_seconds": 1.0,
    "min_side_pixels": 128,
    "min_bitrate_kbps": 1.0,
    "min_image_side_pixels": 64,
    "max_clip_seconds": 2.0,
    "motion_side_pixels": 144,
}


def texture(height: int, width: int, *, seed: int = 0) -> Pixels:
    """Smooth coloured noise: features of about 32 pixels, which optical flow can follow."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 32 + 2, width // 32 + 2, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(coarse, format="rgb24")
    smooth: Pixels = frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation="BICUBIC"
    )
    return smooth


def shot(
    frames: int, *, height: int = 144, width: int = 256, step: int = 2, seed: int = 0
) -> Iterator[Pixels]:
    """`frames` images of a texture that moves `step` pixels a frame."""
    wide = texture(height, width + frames * step, seed=seed)
    for index in range(frames):
        yield wide[:, index * step : index * step + width]


def write_video(
    path: Path,
    shots: Sequence[int] = (48,),
    *,
    fps: float = 24,
    step: int = 2,
    height: int = 144,
    width: int = 256,
    seed: int = 0,
) -> Path:
    """An mp4 of hard-cut shots with these numbers of frames, each of another texture."""
    images = (
        image
        for number, frames in enumerate(shots)
        for image in shot(frames, height=height, width=width, step=step, seed=seed + number)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_mp4(images, fps=fps, crf=20))
    return path


def write_squeezed(path: Path, pixel: Fraction, *, size: tuple[int, int]) -> Path:
    """A second of a disc of half the frame's height, in pixels `pixel` times as wide as high."""
    height, width = size
    y_H1, x_1W = np.arange(height)[:, None], np.arange(width) * float(pixel)
    away_HW = np.hypot(y_H1 - height / 2, x_1W - width * float(pixel) / 2)
    image_HW = np.where(away_HW < height / 4, 255, 0).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.stack([image_HW] * 3, axis=-1), format="rgb24")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = pixel
        for _ in range(24):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_image(path: Path, *, height: int = 96, width: int = 128, seed: int = 0) -> Path:
    """A png of the texture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(texture(height, width, seed=seed)))
    return path


def settings(**over: object) -> CurationConfig:
    """Curation that small synthetic footage passes."""
    return CurationConfig.build({**SMALL, **over})
