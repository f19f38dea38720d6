"""Steps: one order for any number of ranks, exact resumes, held-out samples, dropped captions."""

import threading
from collections.abc import Iterator
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from goku.config import ConfigError
from goku.config.data import DataConfig
from goku.data.degrees import Sharing
from goku.data.encoding import Sample
from goku.data.loader import Batch, Loader, StepBatch
from goku.nn.patch import patchify
from tests.goku.data.fakes import FakeSource

PACKS = 12


def config(**over: object) -> DataConfig:
    values: dict[str, object] = {
        "pack_tokens": 40,
        "packs_per_step": PACKS,
        "image_share": 0.4,
        "caption_dropout": 0.25,
    }
    return DataConfig.build(values | over)


def loader(
    source: FakeSource, data: DataConfig | None = None, *, patch: int = 2, **over: Any
) -> Loader:
    return Loader(source, data or config(), patch=patch, **over)


def take(steps: Iterator[StepBatch], count: int) -> list[StepBatch]:
    return list(islice(steps, count))


def ordinals(steps: list[StepBatch]) -> list[tuple[int, ...]]:
    return [pack.ordinals for step in steps for pack in step.packs]


@settings(max_examples=6, deadline=None)
@given(
    ranks=st.sampled_from([1, 2, 3, 4, 6, 12]),
    images=st.integers(1, 9),
    videos=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_any_number_of_ranks_consumes_the_same_samples_in_the_same_order(
    ranks: int, images: int, videos: int, seed: int
) -> None:
    data = config(seed=seed)
    alone = take(loader(FakeSource(images, videos), data).steps(), 3)
    shared = [
        take(
            loader(FakeSource(images, videos), data, data_rank=r, data_ranks=ranks).steps(),
            3,
        )
        for r in range(ranks)
    ]
    for number, whole in enumerate(alone):
        parts = [steps[number] for steps in shared]
        for j, pack in enumerate(whole.packs):
            other = parts[j % ranks].packs[j // ranks]
            assert other.ordinals == pack.ordinals
            assert torch.equal(other.x_NP, pack.x_NP)
            assert torch.equal(other.text_MY, pack.text_MY)
        assert {(part.samples, part.samples_seen) for part in parts} == {
            (whole.samples, whole.samples_seen)
        }


@settings(max_examples=6, deadline=None)
@given(before=st.integers(0, 4), ranks=st.sampled_from([1, 2, 4]))
def test_a_resume_on_another_world_goes_on_exactly(before: int, ranks: int) -> None:
    straight = take(loader(FakeSource(5, 6)).steps(), 6)
    seen = straight[before - 1].samples_seen if before else 0
    resumed = [
        take(loader(FakeSource(5, 6), data_rank=r, data_ranks=ranks).steps(seen), 6 - before)
        for r in range(ranks)
    ]
    for number, step in enumerate(straight[before:]):
        merged: list[Batch] = [
            resumed[j % ranks][number].packs[j // ranks] for j in range(len(step.packs))
        ]
        assert [pack.ordinals for pack in merged] == [pack.ordinals for pack in step.packs]
        assert all(
            torch.equal(a.text_MY, b.text_MY) for a, b in zip(merged, step.packs, strict=True)
        )


def test_steps_drop_and_repeat_nothing_and_packs_fit() -> None:
    steps = take(loader(FakeSource(5, 6)).steps(), 5)
    flat = [ordinal for pack in ordinals(steps) for ordinal in pack]
    assert flat == list(range(steps[-1].samples_seen))
    assert sum(step.samples for step in steps) == steps[-1].samples_seen
    assert all(pack.layout.tokens <= 40 for step in steps for pack in step.packs)


def test_a_pack_is_its_samples_one_after_another() -> None:
    source = FakeSource(3, 3)
    pack = take(loader(source, config(caption_dropout=0)).steps(), 1)[0].packs[0]
    assert len(pack.ordinals) > 1
    start, text_start = 0, 0
    for length, text_length in zip(pack.layout.lengths, pack.layout.text_lengths, strict=True):
        index = int(pack.text_MY[text_start, 0])
        sample = source.load(index, caption=True)
        assert torch.equal(pack.x_NP[start : start + length], patchify(sample.latent_CTHW, 2))
        assert torch.equal(pack.text_MY[text_start : text_start + text_length], sample.text_LY)
        start, text_start = start + length, text_start + text_length
    assert (start, text_start) == (len(pack.x_NP), len(pack.text_MY))
    assert pack.reference_NP is None


def test_packs_for_a_gpu_are_pinned_by_the_threads_that_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned: list[tuple[str, torch.Size]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append((threading.current_thread().name, tensor.shape))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    options = {"holdout": 2, "image_conditioned": True}
    take(loader(FakeSource(5, 5), **options).steps(), 1)
    assert not pinned  # for a CPU
    one = loader(FakeSource(5, 5), pinned=True, **options)
    assert len(one.validation()) == 2
    assert not pinned  # these stay for good
    packs = take(one.steps(), 1)[0].packs
    shapes = [shape for name, shape in pinned if name.startswith("prefetch")]
    assert len(shapes) == len(pinned)
    for pack in packs:
        assert pack.reference_NP is not None
        assert {pack.x_NP.shape, pack.text_MY.shape, pack.reference_NP.shape} <= set(shapes)


def test_captions_drop_by_ordinal_at_the_rate() -> None:
    source = FakeSource(5, 5)
    steps = take(loader(source, config(caption_dropout=0.3)).steps(), 10)
    dropped = [
        length == 1 for step in steps for pack in step.packs for length in pack.layout.text_lengths
    ]
    rate = sum(dropped) / len(dropped)
    assert len(dropped) > 150
    assert abs(rate - 0.3) < 4 * (0.3 * 0.7 / len(dropped)) ** 0.5
    again = take(loader(FakeSource(5, 5), config(caption_dropout=0.3)).steps(), 10)
    assert dropped == [
        length == 1 for step in again for pack in step.packs for length in pack.layout.text_lengths
    ]


def test_the_reference_is_the_first_frame_at_every_frame() -> None:
    batch = take(loader(FakeSource(2, 3), config(image_share=0), image_conditioned=True).steps(), 1)
    pack = batch[0].packs[0]
    assert pack.reference_NP is not None
    assert pack.reference_NP.shape == pack.x_NP.shape
    frame_N = pack.layout.position_N3[:, 0]
    expected_NP = pack.x_NP - frame_N[:, None] / 100
    torch.testing.assert_close(pack.reference_NP, expected_NP)


@settings(max_examples=6, deadline=None)
@given(holdout=st.integers(1, 8), share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_held_out_samples_are_never_streamed(holdout: int, share: float) -> None:
    source = FakeSource(9, 9)
    data = config(image_share=share)
    held = loader(source, data, holdout=holdout)
    batches = held.validation()
    ids = [id for id, caption in source.loads if caption]
    assert len(batches) == len(ids) == holdout
    assert [batch.ordinals for batch in batches] == [(i,) for i in range(holdout)]
    assert sum(id.startswith("image") for id in ids) == int(holdout * share + 0.5)
    source.loads.clear()
    take(held.steps(), 2)
    assert not set(ids) & {id for id, _ in source.loads}


def test_validation_is_the_same_on_every_call_and_rank() -> None:
    one = loader(FakeSource(6, 6), holdout=4)
    other = loader(FakeSource(6, 6), holdout=4, data_rank=1, data_ranks=2)
    for a, b, c in zip(one.validation(), one.validation(), other.validation(), strict=True):
        assert torch.equal(a.x_NP, b.x_NP)
        assert torch.equal(a.x_NP, c.x_NP)


def test_the_order_of_the_entries_does_not_matter() -> None:
    class Backwards(FakeSource):
        def __init__(self) -> None:
            super().__init__(6, 6)
            self.order = np.arange(len(self.entries))[::-1]
            self.entries = self.entries.take(self.order)

        def load(self, index: int, *, caption: bool) -> Sample:
            return plain.load(int(self.order[index]), caption=caption)

    plain = FakeSource(6, 6)
    one = loader(plain, holdout=2)
    other = loader(Backwards(), holdout=2)
    for a, b in zip(take(one.steps(), 3), take(other.steps(), 3), strict=True):
        assert all(torch.equal(x.x_NP, y.x_NP) for x, y in zip(a.packs, b.packs, strict=True))
    assert all(
        torch.equal(x.x_NP, y.x_NP)
        for x, y in zip(one.validation(), other.validation(), strict=True)
    )


def test_a_failed_load_surfaces_in_the_consumer() -> None:
    class Failing(FakeSource):
        def load(self, index: int, *, caption: bool) -> Sample:
            raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        next(iter(loader(Failing(3, 3)).steps()))


def test_what_does_not_fit_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.pack_tokens=8: clip video-.* has \d+ tokens"):
        loader(FakeSource(3, 3), config(pack_tokens=8))
    with pytest.raises(ConfigError, match="does not cut"):
        loader(FakeSource(3, 3), patch=3)
    with pytest.raises(ConfigError, match=r"2 of the 2 videos would be held out"):
        loader(FakeSource(9, 2), holdout=4)
    with pytest.raises(ConfigError, match="asks for videos"):
        loader(FakeSource(9, 0))
    with pytest.raises(ValueError, match="5 ranks do not divide 12 packs"):
        loader(FakeSource(3, 3), data_ranks=5)


def test_a_kind_that_is_not_asked_for_may_be_too_large() -> None:
    images = config(image_share=1, pack_tokens=12)
    assert take(loader(FakeSource(3, 3), images).steps(), 1)[0].samples >= PACKS


def test_samples_are_dealt_by_cost_alike_on_any_number_of_ranks() -> None:
    source, square = FakeSource(9, 9), lambda tokens: float(tokens**2)
    ordered = take(loader(source).steps(), 3)
    alone = take(loader(source, cost=square).steps(), 3)
    pairs = [
        take(loader(source, cost=square, data_rank=r, data_ranks=2).steps(), 3) for r in (0, 1)
    ]
    for index, step in enumerate(alone):
        packs = [pack.ordinals for pack in step.packs]
        shared = [pair[index].packs for pair in pairs]
        both = [pack.ordinals for turn in zip(*shared, strict=True) for pack in turn]
        assert both == packs
        assert sorted(sum(packs, ())) == sorted(
            ordinal for pack in ordered[index].packs for ordinal in pack.ordinals
        )
        assert step.samples_seen == ordered[index].samples_seen
        assert step.imbalance == 1
        assert pairs[0][index].imbalance == pairs[1][index].imbalance >= 1


def test_packs_are_divided_among_the_ranks_that_share_them_and_stay_what_they_are() -> None:
    sharing = Sharing(4, (1, 2, 4), 12, float)
    plain = take(loader(FakeSource(9, 9)).steps(), 3)
    shared = take(loader(FakeSource(9, 9), sharing=sharing).steps(), 3)
    assert ordinals(shared) == ordinals(plain)
    assert {step.degree for step in plain} == {1}
    degrees = set()
    for step in shared:
        divisions = [pack.division for pack in step.packs]
        assert divisions == [sharing.divide(pack.layout.lengths) for pack in step.packs]
        assert step.degree == fmean(division.degree for division in divisions)
        assert step.imbalance == pytest.approx(sum(d.time for d in divisions) / step.tokens * 4)
        degrees |= {division.degree for division in divisions}
    assert len(degrees) > 1
    held = loader(FakeSource(9, 9), holdout=2, sharing=sharing).validation()
    assert [batch.division[:2] for batch in held] == [(4, ((0,),))] * 2


def test_a_part_of_a_pack_is_its_samples_one_after_another() -> None:
    source = FakeSource(3, 3)
    loaded = loader(source, config(image_share=0, caption_dropout=0), image_conditioned=True)
    packs = [pack for step in take(loaded.steps(), 2) for pack in step.packs]
    pack = next(pack for pack in packs if len(pack.ordinals) > 1)
    assert pack.reference_NP is not None
    single = [pack.only([number]) for number in range(len(pack.ordinals))]
    assert [part.ordinals for part in single] == [(ordinal,) for ordinal in pack.ordinals]
    assert torch.equal(torch.cat([part.x_NP for part in single]), pack.x_NP)
    assert torch.equal(torch.cat([part.text_MY for part in single]), pack.text_MY)
    references = [part.reference_NP for part in single if part.reference_NP is not None]
    assert torch.equal(torch.cat(references), pack.reference_NP)
    assert tuple(part.layout.tokens for part in single) == pack.layout.lengths
    assert pack.only(range(len(pack.ordinals))) is pack
