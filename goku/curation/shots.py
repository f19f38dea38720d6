"""A source to its shots, and a long shot to clips: every clip shows one continuous take.

The paper refines PySceneDetect's cuts by DINOv2 similarity (section 4); that score is left out.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from goku.config.curation import CurationConfig
from goku.curation.footage import Footage
from goku.curation.stage import Rejected, Span
from goku.data.records import Kind

_SLACK = 1e-6  # seconds


class ShotStage:
    """Splits at cuts, then splits what is longer than `max_clip_seconds` into equal parts.

    Equal, so that no remainder is too short to keep. A part may be longer than the maximum by up
    to two frames: parts begin at a frame, and a shot that exceeds by one is not worth a split.
    """

    name, version, splits = "shots", 1, True

    def __init__(self, config: CurationConfig) -> None:
        self._config = config

    def apply(self, span: Span, footage: Footage) -> Sequence[Span | Rejected]:
        """The clips of a source in order, the short shots among them rejected."""
        if footage.probe.kind is Kind.IMAGE:
            return [span]
        found = footage.scan
        borders = [span.start_seconds, *found.cuts, span.end_seconds]
        shots = pairwise(borders)
        return [
            self._judged(Span(start, end, span.scores))
            for shot in shots
            for start, end in self._parts(shot, found.times, 1 / footage.probe.fps)
        ]

    def _parts(
        self, shot: tuple[float, float], times: Sequence[float], frame_seconds: float
    ) -> Iterator[tuple[float, float]]:
        start, end = shot
        excess = end - start - frame_seconds
        count = max(1, math.ceil(excess / self._config.max_clip_seconds - _SLACK))
        inner = [_frame_at(start + (end - start) * k / count, times) for k in range(1, count)]
        return pairwise([start, *inner, end])

    def _judged(self, span: Span) -> Span | Rejected:
        least = self._config.min_clip_seconds
        if span.seconds < least - _SLACK:
            detail = f"{span.seconds:g} seconds, at least {least:g} are asked for"
            return Rejected(span, "shot too short", detail)
        return span


def _frame_at(seconds: float, times: Sequence[float]) -> float:
    """The time of the first frame not before `seconds`."""
    return times[min(bisect_left(times, seconds - _SLACK), len(times) - 1)]
