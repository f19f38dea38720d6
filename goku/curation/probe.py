"""The technical gates of the paper's Table 3, from the header alone: cheap, so they come first."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from goku.config.curation import CurationConfig
from goku.curation.footage import Footage
from goku.curation.stage import Rejected, Span
from goku.data.records import Kind
from goku.data.video import Probe


class _Gate(NamedTuple):
    reason: str
    value: float
    least: float
    unit: str

    @property
    def detail(self) -> str:
        return f"{self.value:g} {self.unit}, at least {self.least:g} are asked for"


class ProbeStage:
    """Turns away sources too short, too small, too plain or too slow, and finds their length."""

    name, version, splits = "probe", 1, False

    def __init__(self, config: CurationConfig) -> None:
        self._config = config

    def apply(self, span: Span, footage: Footage) -> Sequence[Span | Rejected]:
        """One span over the whole source with its bitrate, or the first gate it fails."""
        seen = footage.probe
        if seen.kind is Kind.IMAGE:
            gates, whole = self._image_gates(seen), span
        else:
            scores = {**span.scores, "bitrate_kbps": seen.bitrate_kbps}
            gates = self._video_gates(seen)
            whole = replace(span, end_seconds=seen.duration_seconds, scores=scores)
        for gate in gates:
            if gate.value < gate.least:
                return [Rejected(whole, gate.reason, gate.detail)]
        return [whole]

    def _image_gates(self, seen: Probe) -> Iterator[_Gate]:
        side = min(seen.height, seen.width)
        yield _Gate("too small", side, self._config.min_image_side_pixels, "pixels")

    def _video_gates(self, seen: Probe) -> Iterator[_Gate]:
        config, side = self._config, min(seen.height, seen.width)
        yield _Gate("too short", seen.duration_seconds, config.min_duration_seconds, "seconds")
        yield _Gate("too small", side, config.min_side_pixels, "pixels")
        yield _Gate("low bitrate", seen.bitrate_kbps, config.min_bitrate_kbps, "kbps")
        yield _Gate("low frame rate", seen.fps, config.min_fps, "frames per second")
