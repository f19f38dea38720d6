"""Media bytes to pixels and back, by PyAV: probe, frames, decode for training, encode for curation.

Pixels are RGB uint8, height x width x 3, as displayed: turned upright, and stretched to be square.
Times are seconds from the first frame. Codecs run on one thread: a process per core beats threads
within a codec. Needs neither torch nor OpenCV. Truncated files often open well and just end early,
which is why `frames` may give fewer than `probe` counted.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from goku.data.records import Kind

Pixels = NDArray[np.uint8]
Media = bytes | Path | str
T = TypeVar("T")

_SLACK = 1e-6  # seconds; times are exact fractions turned into floats
_MOST_STRETCH = 4  # of pixels; films have up to 2, more would be a broken header's
_REORDERED = 16  # frames, at most, that are decoded after one that follows them (H.264, HEVC)
_TRACK_LENGTH = re.compile(r"(\d+):(\d+):(\d+\.?\d*)$")  # Matroska's tag, 00:00:04.042000000
_PRESET = "veryfast"  # x264: a third of medium's CPU for slightly larger files


class BadMedia(ValueError):
    """A file that cannot be decoded. Names the file and what the decoder said."""


class Probe(NamedTuple):
    """What a file says of itself, sizes as displayed. An image has 1 frame, fps 0, duration 0."""

    kind: Kind
    width: int
    height: int
    fps: float
    frames: int
    duration_seconds: float
    bitrate_kbps: float


class Frame(NamedTuple):
    """One decoded frame, `image_HWC` RGB uint8."""

    seconds: float
    image_HWC: Pixels


class _Picture(NamedTuple):
    """One decoded frame as PyAV has it, and the size it is displayed at."""

    frame: Any
    height: int
    width: int


def probe(media: Media, *, name: str = "") -> Probe:
    """Read the header and decode one frame. Raises BadMedia, FileNotFoundError."""
    with _opened(media, name) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise BadMedia(f"{_label(media, name)}: it holds no frame")
        _, height, width = _displayed(first, _stretch(container, stream, _label(media, name)))
        if _is_image(container):
            return Probe(Kind.IMAGE, width, height, 0.0, 1, 0.0, 0.0)
        fps = float(stream.average_rate or 0)
        seconds = _duration(container, stream)
        if not fps or not seconds:
            raise BadMedia(f"{_label(media, name)}: its header lacks rate or length, remux it")
        rate = _kbps(container, stream, seconds)
        return Probe(Kind.VIDEO, width, height, fps, round(seconds * fps), seconds, rate)


def frames(
    media: Media, *, start: float = 0.0, end: float = float("inf"), name: str = ""
) -> Iterator[Frame]:
    """Every frame with start <= time < end, in order, all of one size.

    Raises BadMedia, FileNotFoundError.
    """
    for seconds, picture in _decoded(media, start, end, name):
        yield Frame(seconds, _pixels(*picture))


def at_rate(
    timed: Iterable[tuple[float, T]], *, fps: float, start: float, end: float
) -> Iterator[T]:
    """The item nearest to each tick start + k / fps below `end`: variable rate made constant.

    At the items' own constant rate this is the identity.
    """
    tick, previous = 0, None
    for item in timed:
        if previous is not None:
            middle = (previous[0] + item[0]) / 2
            while start + tick / fps < middle:
                yield previous[1]
                tick += 1
        previous = item
    while previous is not None and (tick == 0 or start + (tick + 0.25) / fps < end):
        yield previous[1]
        tick += 1


def decode(data: Media, *, frames: int, fps: float, height: int, width: int) -> Pixels:
    """The first `frames` ticks at `fps`, resized to cover and cropped at the centre: [T, H, W, 3].

    Raises BadMedia for a broken file and for a clip shorter than frames / fps.
    """
    seen = probe(data)
    if seen.kind is Kind.IMAGE:
        fps, end = 1.0, 1.0
    else:
        end = seen.duration_seconds
    timed = _decoded(data, 0.0, float("inf"), "")
    ticks = islice(at_rate(timed, fps=fps, start=0.0, end=end), frames)
    images = [_covered(picture, height, width) for picture in ticks]
    if len(images) < frames:
        raise BadMedia(
            f"{_label(data, '')}: {frames} frames at {fps:g} fps were asked for, "
            f"it has {len(images)}"
        )
    return np.stack(images)


def encode_mp4(images: Iterable[Pixels], *, fps: float, crf: int) -> bytes:
    """H.264 in mp4, 4:2:0, constant rate. An odd last row or column is cut off.

    Raises BadMedia without images: a span that decodes to nothing is broken.
    """
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = None
        for image_HWC in images:
            height, width = (side // 2 * 2 for side in image_HWC.shape[:2])
            if stream is None:
                stream = _h264(container, height, width, fps, crf)
            container.mux(stream.encode(_yuv(image_HWC[:height, :width])))
        if stream is None:
            raise BadMedia("no images to encode: a clip has at least one frame")
        container.mux(stream.encode(None))
    return buffer.getvalue()


def encode_png(image_HWC: Pixels) -> bytes:
    """A lossless PNG."""
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width = image_HWC.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def _h264(container: Any, height: int, width: int, fps: float, crf: int) -> Any:
    rate = Fraction(fps).limit_denominator(1001)  # 23.976... becomes 24000/1001 again
    options = {"crf": str(crf), "preset": _PRESET}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.colorspace = Colorspace.ITU601  # what `_yuv` makes, whatever the size
    return stream


def _yuv(image_HWC: Pixels) -> Any:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601)


@contextmanager
def _opened(media: Media, name: str) -> Iterator[tuple[Any, Any]]:
    """Container and first video stream; whatever FFmpeg raises inside becomes BadMedia."""
    source = BytesIO(media) if isinstance(media, bytes) else str(media)
    try:
        with av.open(source, metadata_errors="replace") as container:  # titles have any encoding
            if not container.streams.video:
                raise BadMedia(f"{_label(media, name)}: it has no picture stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            if _is_image(container) and stream.codec_context.name == "mjpeg":
                # A truncated JPEG would decode, grey where it ends.
                stream.codec_context.options = {"err_detect": "explode"}
            yield container, stream
    except av.error.FileNotFoundError:
        raise
    except av.error.FFmpegError as error:
        raise BadMedia(f"{_label(media, name)}: {error.strerror}") from error


def _decoded(media: Media, start: float, end: float, name: str) -> Iterator[tuple[float, _Picture]]:
    with _opened(media, name) as (container, stream):
        stretch = _stretch(container, stream, _label(media, name))
        stamped = _stamped(container, stream)
        opening = next(stamped, None)
        if opening is None:
            return
        zero, first = opening
        early = start - _REORDERED / float(stream.average_rate or 1)
        if early > 0:  # containers seek by decoding time
            container.seek(zero + int(early / stream.time_base), stream=stream)
            stamped = _stamped(container, stream)
        else:
            stamped = chain([opening], stamped)
        for stamp, frame in stamped:
            if (frame.width, frame.height) != (first.width, first.height):
                raise BadMedia(f"{_label(media, name)}: its frames change size")
            seconds = float((stamp - zero) * stream.time_base)
            if seconds >= end - _SLACK:
                return
            if seconds >= start - _SLACK:
                yield seconds, _displayed(frame, stretch)


def _stamped(container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
    """Frames from where the container stands, with their times in the stream's unit.

    AVI knows only when packets are decoded; the last frames, and an image's, have no time at all.
    """
    step = round(1 / ((stream.average_rate or 1) * stream.time_base))
    stamp = -step
    for frame in container.decode(stream):
        given = frame.dts if container.format.name == "avi" else frame.pts
        stamp = stamp + step if given is None else given
        yield stamp, frame


def _pixels(frame: Any, height: int, width: int) -> Pixels:
    """RGB of a frame, resized before the rotation and upright after it."""
    if _turned(frame):
        height, width = width, height
    image: Pixels = frame.to_ndarray(
        format="rgb24", height=height, width=width, interpolation="BICUBIC"
    )
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def _covered(picture: _Picture, height: int, width: int) -> Pixels:
    scale = max(height / picture.height, width / picture.width)
    tall = max(height, round(picture.height * scale))
    wide = max(width, round(picture.width * scale))
    image = _pixels(picture.frame, tall, wide)
    top, left = (tall - height) // 2, (wide - width) // 2
    return image[top : top + height, left : left + width]


def _displayed(frame: Any, stretch: Fraction) -> _Picture:
    wide = max(1, round(frame.width * stretch))
    if _turned(frame):
        return _Picture(frame, wide, frame.height)
    return _Picture(frame, frame.height, wide)


def _turned(frame: Any) -> bool:
    return bool(round(frame.rotation / 90) % 2)


def _stretch(container: Any, stream: Any, label: str) -> Fraction:
    """Width of a pixel over its height (sample aspect ratio). Viewers ignore that of an image."""
    told: Fraction | None = None if _is_image(container) else stream.sample_aspect_ratio
    stretch = told or Fraction(1)
    if not 1 / _MOST_STRETCH <= stretch <= _MOST_STRETCH:
        raise BadMedia(f"{label}: its header has pixels {stretch} times as wide as high")
    return stretch


def _is_image(container: Any) -> bool:
    name: str = container.format.name
    return name.endswith("_pipe") or name == "image2"


def _duration(container: Any, stream: Any) -> float:
    """Of the picture alone where the file tells it apart: sound is often longer."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if track := _TRACK_LENGTH.match(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = track.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return float((container.duration or 0) / av.time_base)


def _kbps(container: Any, stream: Any, seconds: float) -> float:
    """The picture stream's bitrate if the header has it, else that of the whole file."""
    rate = stream.codec_context.bit_rate or container.bit_rate
    if not rate and seconds:
        rate = container.size * 8 / seconds
    return float(rate or 0) / 1000


def _label(media: Media, name: str) -> str:
    return name or (f"{len(media)} bytes" if isinstance(media, bytes) else str(media))
