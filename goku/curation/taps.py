"""One sequential decode of a source, and what listens to it: shot cuts and optical flow.

Decoding costs more than either listener, so that both hear the same pass. Each keeps numbers
only: a source of any length is scanned in constant memory but for a few floats a frame.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, FrameTimecode

from goku.data.video import Frame, Pixels

_CUT_SIDE_PIXELS = 144  # short side that the cut detector sees: PySceneDetect scales down likewise
_CUT_GAP_FRAMES = 2  # nearest two cuts; short shots shall be dropped, not merged with neighbours


class Flow(NamedTuple):
    """Mean optical flow between two frames of one source."""

    start_seconds: float
    end_seconds: float
    pixels: float  # mean magnitude, at the short side and the gap that CurationConfig names


class Scan(NamedTuple):
    """What one pass over a source found. All times in seconds from the first frame."""

    times: tuple[float, ...]  # of every frame
    cuts: tuple[float, ...]  # first frame of each shot but the first
    flows: tuple[Flow, ...]  # of neighbours on a grid; some straddle a cut


class CutTap:
    """PySceneDetect's adaptive detector, fed frame by frame."""

    def __init__(self, *, threshold: float) -> None:
        self._detector = AdaptiveDetector(
            adaptive_threshold=threshold, min_scene_len=_CUT_GAP_FRAMES
        )
        self._cuts: list[int] = []
        self._index = 0

    def see(self, frame: Frame) -> None:
        self._feed(cv2.cvtColor(_scaled(frame.image_HWC, _CUT_SIDE_PIXELS), cv2.COLOR_RGB2BGR))

    def cuts(self) -> list[int]:
        """Indices of the first frame of every new shot."""
        return self._cuts

    def _feed(self, image: Any) -> None:
        # The rate is of no consequence: cuts are read back as frame numbers.
        timecode = FrameTimecode(self._index, fps=25.0)
        self._cuts += [cut.frame_num for cut in self._detector.process_frame(timecode, image)]
        self._index += 1


class FlowTap:
    """DIS optical flow (preset FAST) between frames about `interval` seconds apart.

    Farneback saturates beyond 32 pixels and makes a fast pan look slow; DIS does not. A pair whose
    frames are not exactly one interval apart is scaled as if its motion were uniform.
    """

    def __init__(self, *, interval: float, side: int) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._interval, self._side = interval, side
        self._last: tuple[float, Any] | None = None
        self._flows: list[Flow] = []

    def see(self, frame: Frame) -> None:
        if self._last is not None and frame.seconds < self._last[0] + self._interval - 1e-6:
            return
        image = cv2.cvtColor(_scaled(frame.image_HWC, self._side), cv2.COLOR_RGB2GRAY)
        if self._last is not None:
            self._flows.append(self._between(*self._last, frame.seconds, image))
        self._last = (frame.seconds, image)

    def flows(self) -> list[Flow]:
        """All pairs, in order."""
        return self._flows

    def _between(self, start: float, before: Any, end: float, after: Any) -> Flow:
        flow_HW2: NDArray[np.float32] = self._dis.calc(before, after, None)
        mean = float(np.linalg.norm(flow_HW2, axis=-1).mean())
        return Flow(start, end, mean * self._interval / (end - start))


def scan(frames: Iterable[Frame], *, cut: CutTap, flow: FlowTap) -> Scan:
    """Show every frame to both taps, once. Raises BadMedia as the frames do."""
    times = []
    for frame in frames:
        times.append(frame.seconds)
        cut.see(frame)
        flow.see(frame)
    return Scan(tuple(times), tuple(times[index] for index in cut.cuts()), tuple(flow.flows()))


def _scaled(image_HWC: Pixels, side: int) -> Any:
    """The image with its short side at `side` pixels, larger or smaller than it was."""
    height, width = image_HWC.shape[:2]
    scale = side / min(height, width)
    size = (round(width * scale), round(height * scale))
    return cv2.resize(
        image_HWC, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
