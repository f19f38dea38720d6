"""Cuts at the exact frame, motion in true pixels, on footage whose cuts and motion are known."""

from pathlib import Path

import pytest

from goku.curation.taps import CutTap, FlowTap, scan
from goku.data.video import Frame, frames
from tests.footage import shot, write_video


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("interval", [0.25, 0.5])
def test_translation_is_measured_within_five_percent(step: int, interval: float) -> None:
    tap = FlowTap(interval=interval, side=144)
    for index, image in enumerate(shot(37, step=step)):
        tap.see(Frame(index / 24, image))
    truth = step * 24 * interval
    found = [flow.pixels for flow in tap.flows()]
    assert len(found) == 1.5 / interval
    assert sum(found) / len(found) == pytest.approx(truth, rel=0.05)


def test_motion_is_scaled_to_the_named_side_and_interval() -> None:
    """Twice the side doubles the pixels; frames that miss the interval are made up for."""
    tap = FlowTap(interval=0.5, side=288)
    for index, image in enumerate(shot(41, step=1)):
        tap.see(Frame(index / 20.2, image))  # nearest frame to 0.5 s is the 11th: 0.545 s
    assert [flow.pixels for flow in tap.flows()] == pytest.approx([2 * 10.1] * 3, rel=0.05)


def test_still_footage_has_no_motion() -> None:
    tap = FlowTap(interval=0.5, side=144)
    for index, image in enumerate(shot(13, step=0)):
        tap.see(Frame(index / 24, image))
    assert tap.flows()[0].pixels < 0.01


def test_hard_cuts_are_found_at_the_exact_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cuts.mp4", (31, 8, 45, 24))
    found = scan(frames(path), cut=CutTap(threshold=3.0), flow=FlowTap(interval=0.5, side=144))
    assert len(found.times) == 108
    assert [round(cut * 24) for cut in found.cuts] == [31, 39, 84]
