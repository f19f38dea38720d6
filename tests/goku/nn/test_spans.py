"""Boundaries of segments, on the host and on a device."""

import torch

from goku.nn.spans import Spans, fetch


def test_boundaries_run_from_zero_to_the_number_of_tokens() -> None:
    spans = Spans.of((3, 0, 2))
    assert spans.starts.tolist() == [0, 3, 3, 5]
    assert spans.starts.dtype == torch.int32
    assert spans.lengths == [3, 0, 2]


def test_the_host_keeps_its_copy() -> None:
    spans = Spans.of((3, 2), "meta")
    assert spans.starts.is_meta
    assert spans.lengths == [3, 2]
    assert spans.to("cpu").starts.tolist() == [0, 3, 5]


def test_what_is_fetched_arrives_as_it_is() -> None:
    assert fetch(torch.arange(3))().tolist() == [0, 1, 2]
