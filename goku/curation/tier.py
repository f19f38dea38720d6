"""Which training resolution a clip is good enough for: the paper's Table 4 as a query on scores.

It needs no media, so that clips can be tiered anew from their records. Scores that nothing has
computed are not gated; of the table's four, this pipeline computes motion. A clip of no tier is
kept: it still serves smaller geometries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from goku.curation import motion
from goku.curation.footage import Footage
from goku.curation.stage import Rejected, Span

_ANY = float("inf")


class Tier(NamedTuple):
    """One row of Table 4: least sides in pixels, and [least, most] of each score."""

    name: str
    short_side: int
    long_side: int
    bounds: Mapping[str, tuple[float, float]]

    def admits(self, height: int, width: int, scores: Mapping[str, float]) -> bool:
        large = min(height, width) >= self.short_side and max(height, width) >= self.long_side
        return large and all(
            least <= scores[name] <= most
            for name, (least, most) in self.bounds.items()
            if name in scores
        )


def _bounds(
    similarity: float, aesthetic: float, text_area: float, moving: tuple[float, float]
) -> Mapping[str, tuple[float, float]]:
    return {
        "dino_similarity": (similarity, _ANY),
        "aesthetic": (aesthetic, _ANY),
        "text_area": (0.0, text_area),
        motion.SCORE: moving,
    }


TABLE_4 = (  # best first
    Tier("1080p", 1080, 1920, _bounds(0.90, 4.5, 0.01, (0.5, 8.0))),
    Tier("720p", 720, 1280, _bounds(0.90, 4.5, 0.01, (0.5, 15.0))),
    Tier("480p", 480, 864, _bounds(0.85, 4.3, 0.02, (0.3, 20.0))),
)


def tier(height: int, width: int, scores: Mapping[str, float]) -> str | None:
    """The best tier that admits a clip of this size and these scores."""
    return next((row.name for row in TABLE_4 if row.admits(height, width, scores)), None)


class TierStage:
    """Names the tier; turns nothing away."""

    name, version, splits = "tier", 1, False

    def apply(self, span: Span, footage: Footage) -> Sequence[Span | Rejected]:
        size = footage.probe.height, footage.probe.width
        return [replace(span, tier=tier(*size, span.scores))]
