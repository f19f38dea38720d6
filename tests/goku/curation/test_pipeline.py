"""Whole sources: conservation of rows, commits, restarts, rivals, broken files."""

import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from goku.contract.store import Store
from goku.curation import pipeline
from goku.curation.footage import Footage, media
from goku.curation.funnel import lean, summary, table, totals
from goku.curation.pipeline import Curator, sift
from goku.curation.stage import Rejected, Span
from goku.data.records import Clip, Commit, Kind, read_clips, read_commits, read_media
from goku.data.video import BadMedia, frames, probe
from tests.footage import settings, write_image, write_squeezed, write_video


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films, a picture, a truncated film, a text that calls itself a film, a small film."""
    folder = tmp_path_factory.mktemp("footage")
    film = write_video(folder / "film.mp4", (30, 10, 60))
    write_video(folder / "sub" / "pan.mp4", (36,), seed=9)
    (folder / "sub" / "pan.txt").write_text("A pan over noise.")
    write_image(folder / "photo.png")
    (folder / "truncated.mp4").write_bytes(film.read_bytes()[:9000])
    (folder / "words.mp4").write_text("not a film")
    write_video(folder / "small.mp4", (24,), height=96, width=160)
    return folder


def curated(source: Path, clips: Path, **over: object) -> list[pipeline.Report]:
    curator = Curator(str(source), str(clips), settings(**over))
    return [curator(name) for name in media(Store(str(source)))]


@pytest.fixture(scope="module")
def once(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The footage, curated."""
    folder = tmp_path_factory.mktemp("clips")
    curated(source, folder)
    return Store(str(folder))


def test_every_clip_is_as_its_record_says(source: Path, once: Store) -> None:
    clips = read_clips(once)
    assert len(clips) == 5  # 30 frames; 60 frames in two; the pan; the photo
    for clip in clips:
        media = read_media(once, clip)
        assert clip.crc32 is not None
        assert clip.made_of(media)
        seen = probe(media)
        assert (seen.width, seen.height) == (clip.width, clip.height)
        assert (seen.frames, seen.fps, seen.kind) == (clip.frames, clip.fps, clip.kind)
    films = [clip for clip in clips if clip.source.endswith("film.mp4")]
    assert [(clip.start_seconds * 24, clip.frames) for clip in films] == [
        (0, 30),
        (40, 30),
        (70, 30),
    ]


def test_clips_are_cut_at_the_exact_frame(source: Path, once: Store) -> None:
    whole = [frame.image_HWC.astype(int) for frame in frames(source / "film.mp4")]
    clip = next(c for c in read_clips(once) if round(c.start_seconds * 24) == 70)
    images = [frame.image_HWC for frame in frames(read_media(once, clip))]
    for index in (0, 29):
        errors = [np.abs(images[index] - image).mean() for image in whole]
        assert int(np.argmin(errors)) == 70 + index


def test_images_and_captions_pass(once: Store) -> None:
    clips = {clip.source.rsplit("/", 1)[-1]: clip for clip in read_clips(once)}
    photo, pan = clips["photo.png"], clips["pan.mp4"]
    assert (photo.kind, photo.frames, photo.caption, photo.scores) == (Kind.IMAGE, 1, "photo", {})
    assert pan.caption == f"A pan over noise. Motion score: {pan.scores['motion']:.1f}."
    assert pan.scores["motion"] == pytest.approx(24, rel=0.05)


def test_clips_have_square_pixels(tmp_path: Path) -> None:
    write_squeezed(tmp_path / "films" / "pal.mkv", Fraction(16, 15), size=(144, 180))
    curated(tmp_path / "films", tmp_path / "clips")
    store = Store(str(tmp_path / "clips"))
    (clip,) = read_clips(store)
    assert (clip.height, clip.width) == (144, 192)
    image_HWC = next(frames(read_media(store, clip))).image_HWC
    light_HW = image_HWC[..., 0] > 127
    assert light_HW.any(axis=0).sum() == pytest.approx(light_HW.any(axis=1).sum(), abs=3)


def test_broken_files_fail_with_a_reason_and_the_rest_goes_on(once: Store) -> None:
    failed = {
        commit.source.rsplit("/", 1)[-1]: reject
        for commit in read_commits(once)
        for reject in commit.rejects
        if reject.failed
    }
    assert set(failed) == {"truncated.mp4", "words.mp4"}
    for name, reject in failed.items():
        assert (reject.stage, reject.reason) == ("probe", "broken media")
        assert f"{name}: Invalid data" in reject.detail


def test_rows_are_conserved(source: Path, once: Store) -> None:
    commits = read_commits(once)
    sums = totals(commits)
    assert sums[0].taken == len(media(Store(str(source)))) == len(commits)
    for before, after in pairwise(sums):
        assert before.passed == after.taken
    kept = len(read_clips(once))
    rejects = [reject for commit in commits for reject in commit.rejects]
    added = sum(tally.added for tally in sums)
    assert sums[0].taken + added == kept + len(rejects) == 6 + 3  # split off: 10, 30, 30 frames
    assert sums[-1].passed == kept
    assert "shot too short 1" in table(commits)
    assert "broken media 2, too small 1" in table(commits)


def test_a_funnel_of_many_sources_takes_little_memory(once: Store) -> None:
    assert table(read_commits(once, lean)) == table(read_commits(once))
    film = next(commit for commit in read_commits(once) if commit.clips == 3)
    texts = [film.model_copy(update={"task_key": f"{n}"}).model_dump_json() for n in range(500)]
    tracemalloc.start()
    try:
        kept = [lean(Commit.model_validate_json(text)) for text in texts]
        nbytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert nbytes < 1000 * len(kept)  # 8,400 with what only one of them needs


def test_a_second_run_skips_what_is_committed(source: Path, tmp_path: Path) -> None:
    first = curated(source, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = curated(source, tmp_path)
    assert not any(report.skipped for report in first)
    assert all(report.skipped for report in second)
    assert [r.clips for r in second] == [r.clips for r in first]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_who_works_does_not_matter_but_what_is_asked_does(source: Path, tmp_path: Path) -> None:
    curator = Curator(str(source), str(tmp_path), settings())
    assert not curator("photo.png").skipped
    moved = Curator(str(source), str(tmp_path), settings(executor="ray", workers=7))
    assert moved("photo.png").skipped
    stricter = Curator(str(source), str(tmp_path), settings(min_image_side_pixels=100))
    report = stricter("photo.png")
    assert (report.skipped, report.dropped) == (False, {"too small": 1})
    assert read_clips(Store(str(tmp_path))) == []  # the newest word on this source


def test_a_new_caption_is_a_new_task(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    curator = Curator(str(tmp_path / "in"), str(tmp_path / "out"), settings())
    curator("a.png")
    (tmp_path / "in" / "a.txt").write_text("a cloud")
    assert not curator("a.png").skipped
    assert [clip.caption for clip in read_clips(Store(str(tmp_path / "out")))] == ["a cloud"]


def test_copies_of_one_file_make_one_clip(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        write_image(tmp_path / "in" / name)
    curated(tmp_path / "in", tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    assert [clip.caption for clip in read_clips(store)] == ["a"]
    assert summary(read_commits(store), sources=2).endswith("2 sources, 1 of them copies of others")


def test_the_loser_of_a_race_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curator = Curator(str(source), str(tmp_path), settings())
    add = pipeline.add_commit

    def beaten(store: Store, commit: pipeline.Commit) -> bool:
        monkeypatch.setattr(pipeline, "add_commit", add)
        curator("photo.png")  # a rival commits first
        return add(store, commit)

    monkeypatch.setattr(pipeline, "add_commit", beaten)
    assert curator("photo.png").clips == 1
    assert len(list((tmp_path / "shards").iterdir())) == 1
    assert len(list((tmp_path / "records").iterdir())) == 1
    assert len(read_clips(Store(str(tmp_path)))) == 1


def test_many_clips_fill_several_shards(source: Path, tmp_path: Path) -> None:
    curator = Curator(str(source), str(tmp_path), settings(clips_per_shard=2))
    assert curator("film.mp4").clips == 3
    (commit,) = read_commits(Store(str(tmp_path)))
    assert [name[-7:] for name in commit.shards] == ["000.tar", "001.tar"]
    for name, nbytes in commit.shards.items():
        assert (tmp_path / name).stat().st_size == nbytes
    media = [read_media(Store(str(tmp_path)), clip) for clip in read_clips(Store(str(tmp_path)))]
    assert [probe(data).frames for data in media] == [30, 30, 30]


def test_the_store_is_asked_of_shards_not_of_clips(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, asked = Store.size, list[str]()

    def counted(store: Store, name: str) -> int | None:
        asked.append(name)
        return size(store, name)

    monkeypatch.setattr(Store, "size", counted)
    assert Curator(str(source), str(tmp_path), settings())("film.mp4").clips == 3
    assert len(asked) == 2  # once written, and for the commit


def test_a_span_that_cannot_be_encoded_fails_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = pipeline.shards.encode

    def broken(span: Span, footage: Footage) -> bytes:
        if span.start_seconds > 2:
            raise BadMedia("film.mp4: a bad block")
        return encode(span, footage)

    monkeypatch.setattr(pipeline.shards, "encode", broken)
    report = Curator(str(source), str(tmp_path), settings())("film.mp4")
    assert (report.clips, report.dropped["broken media"]) == (2, 1)
    clips: list[Clip] = read_clips(Store(str(tmp_path)))
    assert [probe(read_media(Store(str(tmp_path)), clip)).frames for clip in clips] == [30, 30]
    assert totals(read_commits(Store(str(tmp_path))))[-1].failed == 1


class _Faulty:
    """A stage that gives what it is told to."""

    name, version = "faulty", 1

    def __init__(self, *results: Span | Rejected, splits: bool) -> None:
        self.splits, self._results = splits, results

    def apply(self, span: Span, footage: Footage) -> Sequence[Span | Rejected]:
        return self._results


@pytest.mark.parametrize(
    ("results", "splits", "message"),
    [
        ((), False, "made 0 spans"),
        ((Span(0, 0), Span(0, 0)), False, "made 2 spans"),
        ((), True, "without a reason"),
        ((Span(0, 1),), True, "cut off an end"),
        ((Span(0, -1), Span(1, 0)), True, "left a gap"),
    ],
)
def test_a_stage_that_loses_rows_or_seconds_is_caught(
    source: Path, results: tuple[Span, ...], splits: bool, message: str
) -> None:
    footage = Footage(source / "film.mp4", "film.mp4", "0", "", settings())
    with pytest.raises(AssertionError, match=message):
        sift(footage, [_Faulty(*results, splits=splits)])
