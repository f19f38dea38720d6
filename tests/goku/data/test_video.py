"""Media in and out: exact frames and times, rate changes, crops, rotation, broken files."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goku.data.records import Kind
from goku.data.video import (
    BadMedia,
    at_rate,
    decode,
    encode_mp4,
    encode_png,
    frames,
    probe,
)
from tests.footage import shot, texture, write_image, write_squeezed, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("media") / "clip.mp4", (30, 18))


def test_probe_reads_what_was_written(clip: Path) -> None:
    seen = probe(clip)
    assert (seen.kind, seen.width, seen.height, seen.frames) == (Kind.VIDEO, 256, 144, 48)
    assert seen.fps == 24
    assert seen.duration_seconds == pytest.approx(2.0)
    assert seen.bitrate_kbps == pytest.approx(clip.stat().st_size * 8 / 2 / 1000, rel=0.2)


def test_ntsc_rate_survives(tmp_path: Path) -> None:
    path = write_video(tmp_path / "ntsc.mp4", (30,), fps=24000 / 1001)
    assert probe(path).fps == 24000 / 1001
    assert [f.seconds for f in frames(path)][29] == pytest.approx(29 * 1001 / 24000, abs=1e-9)


def test_frames_keep_pixels_and_times(clip: Path) -> None:
    seen = list(frames(clip))
    assert [frame.seconds for frame in seen] == pytest.approx([i / 24 for i in range(48)])
    truth = np.stack(list(shot(30))).astype(float)
    error = np.abs(truth - np.stack([frame.image_HWC for frame in seen[:30]])).mean()
    assert error < 6  # 4:2:0 and x264 on saturated noise


def test_a_span_is_cut_at_the_exact_frame(clip: Path) -> None:
    whole, span = list(frames(clip)), list(frames(clip, start=10 / 24, end=33 / 24))
    assert len(span) == 23
    for got, want in zip(span, whole[10:33], strict=True):
        assert got.seconds == want.seconds
        assert np.array_equal(got.image_HWC, want.image_HWC)


def reordered(path: Path, codec: str, **muxer: str) -> Path:
    """Sixty frames with a key frame every 25 and B-frames between them."""
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=24, options={"g": "25", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        for image_HWC in shot(60, step=4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "muxer"),
    [
        ("whole.mp4", "libx264", {}),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("matroska.mkv", "libx264", {}),
        ("h264.avi", "libx264", {}),
        ("mpeg4.avi", "mpeg4", {}),
    ],
)
def test_a_span_may_begin_at_any_frame_of_any_container(
    tmp_path: Path, name: str, codec: str, muxer: dict[str, str]
) -> None:
    path = reordered(tmp_path / name, codec, **muxer)
    whole = list(frames(path))
    assert [frame.seconds for frame in whole] == pytest.approx(np.arange(60) / 24, abs=1e-3)
    for want in whole:
        got = next(frames(path, start=want.seconds))
        assert got.seconds == want.seconds
        assert np.array_equal(got.image_HWC, want.image_HWC)


@pytest.mark.parametrize("name", ["pal.mp4", "pal.mkv"])
@pytest.mark.parametrize("pixel", [Fraction(16, 15), Fraction(8, 9), Fraction(2)])
def test_pixels_are_stretched_to_be_square(tmp_path: Path, name: str, pixel: Fraction) -> None:
    path = write_squeezed(tmp_path / name, pixel, size=(144, 180))
    seen = probe(path)
    assert (seen.height, seen.width) == (144, 180 * pixel)
    for image_HWC in (
        next(frames(path)).image_HWC,
        decode(path, frames=1, fps=24, height=144, width=seen.width)[0],
    ):
        assert image_HWC.shape == (144, seen.width, 3)
        light_HW = image_HWC[..., 0] > 127
        across, down = light_HW.any(axis=0).sum(), light_HW.any(axis=1).sum()
        assert across == pytest.approx(72, abs=3)
        assert down == pytest.approx(72, abs=3)


def test_a_pixel_that_no_film_has_is_broken_media(tmp_path: Path) -> None:
    path = write_squeezed(tmp_path / "wide.mkv", Fraction(9), size=(48, 64))
    with pytest.raises(BadMedia, match=r"wide\.mkv: its header has pixels 9 times as wide"):
        probe(path)


def test_png_is_lossless(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", height=50, width=70)
    seen = probe(path.read_bytes())
    assert (seen.kind, seen.width, seen.height, seen.fps) == (Kind.IMAGE, 70, 50, 0)
    (frame,) = frames(path)
    assert np.array_equal(frame.image_HWC, texture(50, 70))


def test_colours_of_large_frames_are_kept() -> None:
    flat = np.empty((720, 1280, 3), np.uint8)
    flat[:] = (200, 60, 30)
    (frame,) = frames(encode_mp4([flat], fps=24, crf=10))
    assert np.abs(frame.image_HWC.astype(int) - flat).max() <= 4


def test_odd_sizes_lose_one_row_and_column() -> None:
    data = encode_mp4([np.zeros((51, 71, 3), np.uint8)] * 2, fps=24, crf=20)
    assert (probe(data).height, probe(data).width) == (50, 70)


def test_decode_resamples_resizes_and_crops(clip: Path) -> None:
    got = decode(clip.read_bytes(), frames=13, fps=12, height=64, width=64)
    assert got.shape == (13, 64, 64, 3)
    assert got.dtype == np.uint8
    every_other = decode(clip, frames=13, fps=12, height=144, width=256)
    whole = np.stack([frame.image_HWC for frame in frames(clip)])
    assert np.array_equal(every_other, whole[0:26:2])


def test_decode_crops_the_centre() -> None:
    image = np.zeros((64, 192, 3), np.uint8)
    image[:, 64:128] = 255
    got = decode(encode_png(image), frames=1, fps=24, height=64, width=64)
    assert got.min() == 255


def test_decode_refuses_a_clip_that_is_too_short(clip: Path) -> None:
    assert decode(clip, frames=48, fps=24, height=16, width=16).shape[0] == 48
    with pytest.raises(BadMedia, match="49 frames at 24 fps"):
        decode(clip, frames=49, fps=24, height=16, width=16)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.floats(1, 60, allow_nan=False))
def test_own_rate_is_the_identity(count: int, fps: float) -> None:
    timed = [(index / fps, index) for index in range(count)]
    assert list(at_rate(timed, fps=fps, start=0, end=count / fps)) == list(range(count))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=40), st.floats(1, 60))
def test_every_tick_gets_its_nearest_item(gaps: list[float], fps: float) -> None:
    times = np.cumsum(gaps) - gaps[0]
    end = float(times[-1]) + gaps[-1]
    got = list(at_rate([(float(t), float(t)) for t in times], fps=fps, start=0, end=end))
    assert abs(len(got) - end * fps) <= 1
    for tick, time in enumerate(got):
        assert abs(time - tick / fps) == pytest.approx(np.abs(times - tick / fps).min(), abs=1e-9)


def test_a_clip_shorter_than_a_tick_has_its_one_frame() -> None:
    flash = encode_mp4([texture(64, 64)], fps=60, crf=20)
    assert decode(flash, frames=1, fps=8, height=16, width=16).shape == (1, 16, 16, 3)


def test_display_rotation_is_applied() -> None:
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:16] = 255
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
        stream.set_display_rotation(90)  # degrees counter-clockwise, to be applied by players
        lying = np.ascontiguousarray(np.rot90(upright, -1))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(lying, format="rgb24")))
        container.mux(stream.encode(None))
    seen = probe(buffer.getvalue())
    assert (seen.height, seen.width) == (64, 96)
    (frame,) = frames(buffer.getvalue())
    assert np.abs(frame.image_HWC.astype(int) - upright).mean() < 8
    assert decode(buffer.getvalue(), frames=1, fps=24, height=32, width=48)[0, :6].min() > 200


@pytest.mark.parametrize("data", [b"", b"not a film" * 100])
def test_broken_bytes_are_bad_media(data: bytes) -> None:
    with pytest.raises(BadMedia, match=f"{len(data)} bytes"):
        probe(data)


def test_bad_media_names_the_file(clip: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.mp4"
    half.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(BadMedia, match=r"half\.mp4"):
        list(frames(half))
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "absent.mp4")


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_a_title_in_any_encoding_is_no_fault(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Amelie"
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        image = np.zeros((64, 64, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    latin = path.read_bytes().replace(b"Amelie", "Amélie".encode("latin-1"))
    assert len(list(frames(latin))) == probe(latin).frames == 1


def test_a_truncated_jpeg_is_bad_media() -> None:
    codec = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width, codec.pix_fmt = 64, 96, "yuvj420p"
    codec.time_base = Fraction(1)
    image = av.VideoFrame.from_ndarray(texture(64, 96), format="rgb24")
    packets = codec.encode(image.reformat(format="yuvj420p"))
    jpeg = b"".join(bytes(packet) for packet in packets)
    (frame,) = frames(jpeg)
    assert np.abs(frame.image_HWC.astype(int) - texture(64, 96)).mean() < 8
    for share in (0.5, 0.95):
        with pytest.raises(BadMedia):
            probe(jpeg[: int(len(jpeg) * share)])


def test_frames_of_two_sizes_are_bad_media(tmp_path: Path) -> None:
    """As video calls record them: the header has the first size."""
    packets = []
    for height, width in ((64, 96), (96, 64)):
        codec = av.CodecContext.create("libvpx", "w")
        codec.height, codec.width, codec.pix_fmt = height, width, "yuv420p"
        codec.time_base = Fraction(1, 24)
        image = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
        packets += [*codec.encode(image), *codec.encode(None)]
    with av.open(str(tmp_path / "call.webm"), "w") as container:
        stream = container.add_stream("libvpx", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for index, packet in enumerate(packets):
            packet.stream, packet.pts, packet.dts = stream, index, index
            container.mux(packet)
    with pytest.raises(BadMedia, match=r"call\.webm: its frames change size"):
        list(frames(tmp_path / "call.webm"))


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    """A stream copy from 1 s on keeps the frames since the key frame before, unseen."""
    whole, copy = reordered(tmp_path / "whole.mp4", "libx264"), tmp_path / "copy.mp4"
    with av.open(str(whole)) as source, av.open(str(copy), "w") as target:
        film = source.streams.video[0]
        stream = target.add_stream_from_template(film)
        second = int(1 / film.time_base)
        for packet in source.demux(film):
            if packet.dts is not None:
                packet.stream = stream
                packet.pts, packet.dts = packet.pts - second, packet.dts - second
                target.mux(packet)
    assert probe(copy).frames == len(list(frames(copy))) == 36
    assert probe(copy).duration_seconds == pytest.approx(1.5)


def test_sound_that_goes_on_does_not_lengthen_the_film(tmp_path: Path) -> None:
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        film, song = container.add_stream("libx264", rate=24), container.add_stream("pcm_s16le")
        film.width, film.height, film.pix_fmt = 64, 64, "yuv420p"
        for _ in range(24):
            image = np.zeros((64, 64, 3), np.uint8)
            container.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(film.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 96_000), np.int16), layout="mono")
        sound.sample_rate = 48_000
        container.mux(song.encode(sound))
        container.mux(song.encode(None))
    assert (probe(path).frames, probe(path).duration_seconds) == (24, pytest.approx(1.0))


def test_a_film_without_length_asks_to_be_remuxed(tmp_path: Path) -> None:
    live = reordered(tmp_path / "live.mkv", "libx264", live="1")
    with pytest.raises(BadMedia, match=r"live\.mkv: its header lacks rate or length, remux it"):
        probe(live)


def test_encoding_nothing_is_an_error() -> None:
    with pytest.raises(BadMedia, match="no images"):
        encode_mp4([], fps=24, crf=20)
