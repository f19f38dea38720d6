"""The motion score of a clip: how far its pixels move, for captions and tiers.

Unit: mean optical-flow magnitude in pixels, of frames `motion_interval_seconds` apart, scaled to a
short side of `motion_side_pixels`. The paper names RAFT but neither gap nor size, so that its
bounds (0.3 to 20) are not in this unit: compare percentiles, not numbers.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from goku.curation.footage import Footage
from goku.curation.stage import Rejected, Span
from goku.data.records import Kind

SCORE = "motion"
_SLACK = 1e-6  # seconds


class MotionStage:
    """Adds the score; turns nothing away."""

    name, version, splits = "motion", 1, False

    def apply(self, span: Span, footage: Footage) -> Sequence[Span | Rejected]:
        """The span with the mean over its frame pairs. Pairs that straddle a cut count nowhere.

        An image, and a clip too short for one pair, get no score.
        """
        if footage.probe.kind is Kind.IMAGE:
            return [span]
        flows = footage.scan.flows
        first = bisect_left(flows, span.start_seconds - _SLACK, key=lambda flow: flow.start_seconds)
        last = bisect_left(flows, span.end_seconds - _SLACK, key=lambda flow: flow.end_seconds)
        inside = [flow.pixels for flow in flows[first:last]]
        if not inside:
            return [span]
        return [replace(span, scores={**span.scores, SCORE: sum(inside) / len(inside)})]
