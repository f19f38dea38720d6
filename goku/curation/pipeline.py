"""One source from footage to a commit: the stages in their order, and the restart protocol.

The task's key is made of all that decides its result. Work that has a commit under its key is
skipped; work that has none is done under names that no other attempt uses, and then committed with
put-if-absent. So results are computed at least once and count exactly once, whoever dies when.

A key takes reading the source. A commit also keeps what a listing says of it, so that what has not
been written since is told from that alone.
"""

import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

import cv2

from goku.config.curation import CurationConfig
from goku.contract.store import Store
from goku.curation import shards
from goku.curation.caption import CaptionStage
from goku.curation.footage import Footage, opened
from goku.curation.motion import MotionStage
from goku.curation.probe import ProbeStage
from goku.curation.shots import ShotStage
from goku.curation.stage import Rejected, Span, Stage
from goku.curation.tier import TierStage
from goku.data.records import (
    Clip,
    Commit,
    Kind,
    Reject,
    Tally,
    Versions,
    add_commit,
    all_commits,
    find_commit,
    write_clips,
)
from goku.data.video import BadMedia, probe

_ENCODE = "encode"
_BROKEN = "broken media"
_COMMITS_A_TICK = 1000  # a second's, of a store that answers in 25 ms


class Report(NamedTuple):
    """What became of one source, for a line of progress."""

    name: str
    clips: int
    dropped: dict[str, int]  # spans by reason
    seconds: float
    skipped: bool  # an earlier attempt had committed it

    def line(self) -> str:
        """Name, clips kept, spans dropped and why, time taken."""
        dropped = "".join(f", {count} {reason}" for reason, count in self.dropped.items())
        how = "done before" if self.skipped else f"{self.seconds:.1f} s"
        return f"{self.name}: {self.clips} kept{dropped} ({how})"


def _report(name: str, commit: Commit, *, seconds: float, skipped: bool) -> Report:
    dropped = Counter(reject.reason for reject in commit.rejects)
    return Report(name, commit.clips, dict(dropped), seconds, skipped)


def stages(config: CurationConfig) -> tuple[Stage, ...]:
    """Cheap gates first, then what needs the one full decode, then what needs only its numbers."""
    return (
        ProbeStage(config),
        ShotStage(config),
        MotionStage(),
        CaptionStage(),
        TierStage(),
    )


@dataclass(frozen=True)
class Curator:
    """The work of one task, to be called with a source's name in any process."""

    source: str  # URI of the footage
    clips: str  # URI of the folder of clips
    config: CurationConfig

    def __call__(self, name: str) -> Report:
        """Curate one source and commit what became of it, unless that has been done."""
        cv2.setNumThreads(1)  # a process per core; OpenCV's own threads would fight over them
        started, store = time.monotonic(), Store(self.clips)
        with opened(Store(self.source), name, self.config) as footage:
            key = task_key(footage)
            commit = find_commit(store, key)
            skipped = commit is not None
            if commit is None:
                commit = _committed(store, _curated(store, key, footage))
        return _report(name, commit, seconds=time.monotonic() - started, skipped=skipped)

    def done_before(self, found: Mapping[str, Versions | None]) -> Iterator[Report | None]:
        """The sources whose newest commits vouch for them, unopened. None while commits are read.

        `found` is `media`'s. Whatever is not reported may be done all the same: its key tells.
        """
        newest: dict[str, tuple[float, Versions | None, Report]] = {}
        settings = _digest(_settings(self.config))
        for number, commit in enumerate(all_commits(Store(self.clips))):
            name = commit.source.removeprefix(f"{Store(self.source).uri}/")
            versions = commit.versions if commit.settings == settings else None
            known = (commit.committed_at, versions, _report(name, commit, seconds=0, skipped=True))
            newest[name] = max(known, newest.get(name, known), key=itemgetter(0))
            if not number % _COMMITS_A_TICK:
                yield None
        for name, versions in found.items():
            if versions is not None and name in newest and newest[name][1] == versions:
                yield newest[name][2]


def task_key(footage: Footage) -> str:
    """Identity of a task: what it reads, the code's versions and the settings that matter."""
    source = [footage.uri, footage.sha256, footage.sidecar]
    return _digest({"source": source, **_settings(footage.config)})


def _settings(config: CurationConfig) -> dict[str, object]:
    """The part of the key that is the same for all sources.

    `executor` and `workers` say who does the work; the result is the same.
    """
    return {
        "stages": {stage.name: stage.version for stage in stages(config)},
        _ENCODE: shards.VERSION,
        "config": config.model_dump(mode="json", exclude={"executor", "workers"}),
    }


def _digest(identity: Mapping[str, object]) -> str:
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Sieve(NamedTuple):
    """Spans after some stages, and an account of those that are gone."""

    spans: tuple[Span, ...]
    tallies: tuple[Tally, ...] = ()
    rejects: tuple[Reject, ...] = ()


def sift(footage: Footage, order: Sequence[Stage]) -> Sieve:
    """A source through every stage. A source that cannot be decoded fails, it does not raise."""
    sieve = Sieve((Span(0.0, 0.0),))
    for stage in order:
        sieve = _through(stage, sieve, footage)
    return sieve


def _through(stage: Stage, sieve: Sieve, footage: Footage) -> Sieve:
    passed: list[Span] = []
    rejects: list[Reject] = []
    added = 0
    for span in sieve.spans:
        try:
            results = stage.apply(span, footage)
        except BadMedia as error:
            rejects.append(_failure(stage.name, span, error))
            continue
        _check_conserved(stage, span, results)
        added += len(results) - 1
        passed += [result for result in results if isinstance(result, Span)]
        rejects += [_rejection(stage.name, r) for r in results if isinstance(r, Rejected)]
    tally = _tally(stage.name, len(sieve.spans), len(passed), rejects, added=added)
    return Sieve(tuple(passed), (*sieve.tallies, tally), (*sieve.rejects, *rejects))


def _check_conserved(stage: Stage, span: Span, results: Sequence[Span | Rejected]) -> None:
    """A stage may not lose a span, nor seconds of it by splitting: what goes needs a reason."""
    if not stage.splits:
        assert len(results) == 1, f"stage {stage.name} made {len(results)} spans of one"
        return
    tiles = [result.span if isinstance(result, Rejected) else result for result in results]
    assert tiles, f"stage {stage.name} dropped a span without a reason"
    ends = (tiles[0].start_seconds, tiles[-1].end_seconds)
    assert ends == (span.start_seconds, span.end_seconds), f"stage {stage.name} cut off an end"
    for left, right in pairwise(tiles):
        assert left.end_seconds == right.start_seconds, f"stage {stage.name} left a gap"


def _curated(store: Store, key: str, footage: Footage) -> Commit:
    """Stages, then cut and encode the survivors into shards and records of this attempt's own."""
    sieve = sift(footage, stages(footage.config))
    attempt = f"{key[:16]}-{uuid.uuid4().hex[:12]}"
    clips: list[Clip] = []
    rejects: list[Reject] = []
    size = footage.config.clips_per_shard
    for start in range(0, len(sieve.spans), size):
        shard = f"shards/{attempt}-{start // size:03d}.tar"
        clips += _encoded(store, shard, sieve.spans[start : start + size], footage, rejects)
    records = f"records/{attempt}.parquet" if clips else None
    checksum = write_clips(store, records, clips) if records else None
    return Commit(
        task_key=key,
        source=footage.uri,
        source_sha256=footage.sha256,
        shards={name: store.size(name) or 0 for name in dict.fromkeys(c.shard for c in clips)},
        records=records,
        records_crc32=checksum,
        clips=len(clips),
        tallies=(*sieve.tallies, _tally(_ENCODE, len(sieve.spans), len(clips), rejects)),
        rejects=(*sieve.rejects, *rejects),
        versions=footage.versions,
        settings=_digest(_settings(footage.config)),
    )


def _encoded(
    store: Store, shard: str, spans: Sequence[Span], footage: Footage, rejects: list[Reject]
) -> list[Clip]:
    """One shard and its records. Spans that fail to decode are added to `rejects`."""
    clips: list[Clip] = []

    def members() -> Iterator[tuple[str, bytes]]:
        for span in spans:
            try:
                data = shards.encode(span, footage)
            except BadMedia as error:
                rejects.append(_failure(_ENCODE, span, error))
                continue
            clip = _record(span, footage, data, shard)
            clips.append(clip)
            yield f"{clip.id}.{'png' if clip.kind is Kind.IMAGE else 'mp4'}", data

    places = shards.write_shard(store, shard, members())
    if not places:
        store.delete(shard)
    return [
        clip.model_copy(update=place._asdict()) for clip, place in zip(clips, places, strict=True)
    ]


def _record(span: Span, footage: Footage, data: bytes, shard: str) -> Clip:
    """The clip as it was really encoded. Its place in the shard is not known yet."""
    made = probe(data)
    return Clip(
        id=f"{footage.sha256[:16]}-{round(span.start_seconds * 1000):08d}",
        kind=made.kind,
        source=footage.uri,
        source_sha256=footage.sha256,
        start_seconds=span.start_seconds,
        end_seconds=span.end_seconds,
        width=made.width,
        height=made.height,
        frames=made.frames,
        fps=made.fps,
        caption=span.caption,
        scores=dict(span.scores),
        tier=span.tier,
        shard=shard,
        offset=0,
        nbytes=len(data),
    )


def _committed(store: Store, commit: Commit) -> Commit:
    """The commit that counts: this one, or a rival's that was first; then this one's files go."""
    if add_commit(store, commit):
        return commit
    for name in [*commit.shards, *([commit.records] if commit.records else [])]:
        store.delete(name)
    winner = find_commit(store, commit.task_key)
    assert winner is not None, "a commit that exists can be read"
    return winner


def _tally(stage: str, taken: int, passed: int, rejects: Sequence[Reject], added: int = 0) -> Tally:
    failed = sum(reject.failed for reject in rejects)
    return Tally(
        stage=stage,
        taken=taken,
        added=added,
        passed=passed,
        rejected=len(rejects) - failed,
        failed=failed,
    )


def _rejection(stage: str, rejected: Rejected) -> Reject:
    return _reject(stage, rejected.span, rejected.reason, rejected.detail)


def _failure(stage: str, span: Span, error: BadMedia) -> Reject:
    return _reject(stage, span, _BROKEN, str(error)).model_copy(update={"failed": True})


def _reject(stage: str, span: Span, reason: str, detail: str) -> Reject:
    return Reject(
        stage=stage,
        reason=reason,
        detail=detail,
        start_seconds=span.start_seconds,
        end_seconds=span.end_seconds,
    )
