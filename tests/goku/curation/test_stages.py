"""Each stage by itself, on a footage whose header and scan are given."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from goku.config import ConfigError
from goku.config.curation import CurationConfig
from goku.contract.store import Store
from goku.curation.caption import CaptionStage, with_motion
from goku.curation.footage import Footage, media, opened
from goku.curation.motion import MotionStage
from goku.curation.probe import ProbeStage
from goku.curation.shots import ShotStage
from goku.curation.stage import Rejected, Span
from goku.curation.taps import Flow, Scan
from goku.curation.tier import TierStage, tier
from goku.data.records import Kind
from goku.data.video import BadMedia, Probe
from tests.footage import settings, write_video

FILM = Probe(Kind.VIDEO, 1280, 720, 24.0, 480, 20.0, 2000.0)
PHOTO = Probe(Kind.IMAGE, 640, 480, 0.0, 1, 0.0, 0.0)


def footage(
    seen: Probe = FILM,
    *,
    cuts: tuple[float, ...] = (),
    flows: tuple[Flow, ...] = (),
    sidecar: str = "",
    config: CurationConfig | None = None,
) -> Footage:
    """A source that is never decoded: what decoding would find is put in place."""
    source = Footage(Path("-"), "s3://films/a_hare-runs2.mp4", "0", sidecar, config or settings())
    times = tuple(index / 24 for index in range(seen.frames))
    source.__dict__.update(probe=seen, scan=Scan(times, cuts, flows))
    return source


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"duration_seconds": 3.9}, "too short"),
        ({"height": 479}, "too small"),
        ({"width": 479}, "too small"),
        ({"bitrate_kbps": 499.0}, "low bitrate"),
        ({"fps": 23.9}, "low frame rate"),
    ],
)
def test_gates_of_table_3(change: dict[str, float], reason: str) -> None:
    stage = ProbeStage(CurationConfig())
    (result,) = stage.apply(Span(0, 0), footage(FILM._replace(**change)))
    assert isinstance(result, Rejected)
    assert result.reason == reason
    assert f"{next(iter(change.values())):g} " in result.detail


def test_ntsc_film_passes_the_gates() -> None:
    seen = FILM._replace(fps=24000 / 1001)
    (result,) = ProbeStage(CurationConfig()).apply(Span(0, 0), footage(seen))
    assert result == Span(0, 20, {"bitrate_kbps": 2000.0})


def test_images_have_a_gate_of_their_own() -> None:
    stage = ProbeStage(CurationConfig())
    assert stage.apply(Span(0, 0), footage(PHOTO)) == [Span(0, 0)]
    (result,) = stage.apply(Span(0, 0), footage(PHOTO._replace(height=255)))
    assert isinstance(result, Rejected)


def test_shots_are_split_at_cuts_and_the_short_rejected() -> None:
    source = footage(cuts=(1.5, 2.0, 3.5), config=settings(max_clip_seconds=10))
    results = ShotStage(source.config).apply(Span(0, 4.5), source)
    kept = [(r.start_seconds, r.end_seconds) for r in results if isinstance(r, Span)]
    assert kept == [(0, 1.5), (2.0, 3.5), (3.5, 4.5)]
    (short,) = [result for result in results if isinstance(result, Rejected)]
    assert (short.span.start_seconds, short.span.end_seconds) == (1.5, 2.0)


def test_long_shots_become_equal_parts_that_begin_at_frames() -> None:
    source = footage(config=settings(max_clip_seconds=6))
    results = ShotStage(source.config).apply(Span(0, 20), source)
    spans = [result for result in results if isinstance(result, Span)]
    assert [round(span.seconds) for span in spans] == [5, 5, 5, 5]
    odd = footage(config=settings(max_clip_seconds=7))
    thirds = [
        span for span in ShotStage(odd.config).apply(Span(0, 20), odd) if isinstance(span, Span)
    ]
    assert [span.start_seconds for span in thirds] == [0, 160 / 24, 320 / 24]


def test_a_shot_one_frame_too_long_stays_whole() -> None:
    source = footage(config=settings(max_clip_seconds=10))
    assert len(ShotStage(source.config).apply(Span(0, 20.04), source)) == 2
    assert len(ShotStage(source.config).apply(Span(0, 20.05), source)) == 3


def test_motion_is_the_mean_of_pairs_inside_the_clip() -> None:
    flows = tuple(Flow(k / 2, k / 2 + 0.5, float(k)) for k in range(8))
    (result,) = MotionStage().apply(Span(0.5, 2.5), footage(flows=flows))
    assert isinstance(result, Span)
    assert result.scores == {"motion": (1 + 2 + 3) / 3}  # the pair that ends at 2.5 is outside
    assert MotionStage().apply(Span(0, 0.4), footage(flows=flows)) == [Span(0, 0.4)]


def test_the_clips_of_a_whole_day_are_scored_in_no_time() -> None:
    flows = tuple(Flow(k / 2, k / 2 + 0.5, 1.0) for k in range(2 * 86_400))
    source, began = footage(flows=flows), time.process_time()
    for start in range(86_300, 86_400):
        (result,) = MotionStage().apply(Span(start, start + 2), source)
        assert isinstance(result, Span)
        assert result.scores == {"motion": 1.0}
    assert time.process_time() - began < 0.2  # seconds


def test_caption_is_the_sidecar_else_the_file_name_plus_motion() -> None:
    stage = CaptionStage()
    (named,) = stage.apply(Span(0, 1), footage())
    (written,) = stage.apply(Span(0, 1, {"motion": 3.14}), footage(sidecar="A hare runs."))
    assert isinstance(named, Span)
    assert isinstance(written, Span)
    assert named.caption == "a hare runs2"
    assert written.caption == with_motion("A hare runs", 3.14)
    assert written.caption == "A hare runs. Motion score: 3.1."


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ("a_hare-runs2 (final).v1", "a hare runs2 final v1"),
        ("Mu\u0308ller__im_Cafe\u0301", "M\u00fcller im Caf\u00e9"),  # as macOS writes names
        ("नमस्ते-दुनिया", "नमस्ते दुनिया"),
        ("兔子_奔跑", "兔子 奔跑"),
    ],
)
def test_words_of_any_script_stay_whole(stem: str, words: str) -> None:
    source = replace(footage(), uri=f"s3://films/{stem}.mp4")
    (result,) = CaptionStage().apply(Span(0, 1), source)
    assert isinstance(result, Span)
    assert result.caption == words


@pytest.mark.parametrize(
    ("size", "scores", "expected"),
    [
        ((1080, 1920), {}, "1080p"),
        ((1920, 1080), {"motion": 8.0}, "1080p"),
        ((1080, 1920), {"motion": 8.1}, "720p"),
        ((1080, 1920), {"motion": 15.1}, "480p"),
        ((1080, 1920), {"motion": 20.1}, None),
        ((720, 1280), {"aesthetic": 4.4}, "480p"),
        ((720, 1280), {"aesthetic": 4.5, "text_area": 0.01, "dino_similarity": 0.9}, "720p"),
        ((480, 864), {"motion": 0.29}, None),
        ((480, 863), {}, None),
    ],
)
def test_tiers_of_table_4(
    size: tuple[int, int], scores: dict[str, float], expected: str | None
) -> None:
    assert tier(*size, scores) == expected
    seen = FILM._replace(height=size[0], width=size[1])
    (result,) = TierStage().apply(Span(0, 1, scores), footage(seen))
    assert isinstance(result, Span)
    assert result.tier == expected


def test_media_is_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.MP4", "a/deep/c.jpg", "notes.txt", "a/._b.mp4", "b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(media(Store(str(tmp_path)))) == ["a/deep/c.jpg", "b.MP4"]


@pytest.mark.parametrize("folder", ["", "absent"])
def test_no_media_is_the_users_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(ConfigError, match="holds no footage"):
        media(Store(str(tmp_path / folder)))


def test_a_name_that_records_cannot_hold_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    with pytest.raises(ConfigError, match=r"caf.xe9\.mp4'.*not UTF-8.*Rename"):
        media(Store(str(tmp_path)))


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.txt").write_text("a hare", encoding="utf-8-sig")
    with opened(Store(str(tmp_path)), "a.mp4", settings()) as source:
        assert source.sidecar == "a hare"


def test_a_remote_source_is_copied_while_it_is_open(tmp_path: Path) -> None:
    local, remote = Store(str(tmp_path)), Store("memory://remote-footage")
    data = write_video(tmp_path / "a.mp4", (24,)).read_bytes()
    for store in (local, remote):
        store.write("x/a.mp4", data)
        store.write("x/a.txt", b" a\n hare ")
    assert list(media(remote)) == ["x/a.mp4"]
    with opened(local, "x/a.mp4", settings()) as here, opened(remote, "x/a.mp4", settings()) as far:
        assert here.path == tmp_path / "x/a.mp4"
        assert far.path.read_bytes() == data
        assert far.sha256 == here.sha256
        assert far.sidecar == here.sidecar == "a hare"
        assert far.uri == "memory://remote-footage/x/a.mp4"
    assert not far.path.exists()


def test_frames_that_the_header_promised_are_missed(tmp_path: Path) -> None:
    source = Footage(write_video(tmp_path / "a.mp4", (24,)), "a.mp4", "0", "", settings())
    source.__dict__["probe"] = source.probe._replace(frames=48)
    with pytest.raises(BadMedia, match=r"a\.mp4: truncated, 24 of 48 frames"):
        _ = source.scan
