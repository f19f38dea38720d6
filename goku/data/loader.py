"""Steps of packed samples for one data rank, and the held-out samples of validation.

Every rank plans every step from lengths alone and loads only its own packs, so ranks agree without
a word. The loader has no state: a run resumes from the number of samples it has consumed.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from heapq import nsmallest
from itertools import islice, tee
from statistics import fmean
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from goku.config.data import DataConfig
from goku.config.errors import ConfigError
from goku.contract.store import patiently
from goku.data import balance, packing
from goku.data.balance import Cost
from goku.data.catalog import Catalog, Entry, Form, Indices
from goku.data.degrees import Division, Sharing
from goku.data.encoding import Sample
from goku.data.packing import Lengths, Pack
from goku.data.prefetch import ahead, beside
from goku.data.records import Kind
from goku.data.source import Source
from goku.data.spares import Spares
from goku.data.stream import Integers, Stream, kinds, unit
from goku.nn.layout import Layout, rows_of
from goku.nn.patch import patchify

# How long training waits for samples while the store is away. Half of a step's budget of silence:
# beyond that the attempt would be ended as hung.
_STORE_AWAY_SECONDS = 300.0


@dataclass(frozen=True)
class Batch:
    """One packed sequence on the CPU: N clean tokens, float32, and M text tokens."""

    x_NP: Tensor
    text_MY: Tensor  # as the source has them: most of a pack's bytes where its samples are images
    layout: Layout
    ordinals: tuple[int, ...]  # of its samples in the stream; in validation, in the held-out set
    reference_NP: Tensor | None  # the first frame's latent at every frame; only for I2V
    division: Division  # who of the ranks that share the pack computes which samples

    def pinned(self) -> "Batch":
        """The same in page-locked memory, from which a GPU copies without waiting."""
        reference_NP = self.reference_NP
        return replace(
            self,
            x_NP=self.x_NP.pin_memory(),
            text_MY=self.text_MY.pin_memory(),
            reference_NP=None if reference_NP is None else reference_NP.pin_memory(),
        )

    def only(self, numbers: Sequence[int]) -> "Batch":
        """The samples with these numbers in the pack, whose division they keep."""
        layout = self.layout
        if len(numbers) == layout.segments:
            return self
        reference_NP = self.reference_NP
        if reference_NP is not None:
            reference_NP = rows_of(numbers, reference_NP, layout.lengths)
        return Batch(
            x_NP=rows_of(numbers, self.x_NP, layout.lengths),
            text_MY=rows_of(numbers, self.text_MY, layout.text_lengths),
            layout=layout.only(numbers),
            ordinals=tuple(self.ordinals[n] for n in numbers),
            reference_NP=reference_NP,
            division=self.division,
        )


class StepBatch(NamedTuple):
    """One optimizer step as a data rank sees it."""

    # Pack j of the step belongs to data rank j % data_ranks. Whoever computes one takes it out: it
    # has up to 100 MB, and letting them go costs milliseconds that can be hidden then.
    packs: list[Batch]
    samples: int  # in the step, over all ranks
    tokens: int  # in the step, over all ranks
    samples_seen: int  # in the run, this step included: where a resume goes on
    imbalance: float = 1.0  # expected time of the step over that of even ranks
    degree: float = 1.0  # ranks that cut up each sample, the mean over the step's packs


class Feed(Protocol):
    """What training reads its steps from."""

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        """Endless steps, beginning after `samples_seen` samples. What loading raises, it raises."""
        ...


class _Plan(NamedTuple):
    """A step before anything of it is loaded: the same on every rank."""

    packs: tuple[Pack, ...]
    divisions: tuple[Division, ...]  # of the packs
    samples: int
    tokens: int
    samples_seen: int
    imbalance: float


class Loader:
    """Packs of a source for one of `data_ranks` ranks that see different samples."""

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        *,
        patch: int,
        data_rank: int = 0,
        data_ranks: int = 1,
        holdout: int = 0,
        image_conditioned: bool = False,
        cost: Cost | None = None,
        sharing: Sharing | None = None,
        pinned: bool = False,
    ) -> None:
        """`holdout` samples, chosen by hash of the clip's id, are kept for validation.

        By their `cost` samples are dealt to the packs of a step; without one they stay in order.
        What ranks do together with a pack is `sharing`'s; without it a rank has a pack to itself.
        `pinned`: packs of training lie in page-locked memory. The threads that read them copy them
        there; training would do it while its GPU waits.

        Raises ConfigError when a sample is larger than a pack or not cut evenly by the patch,
        when a kind that `image_share` asks for is missing, or when the holdout leaves none of it;
        ValueError when the ranks do not divide the packs of a step.
        """
        if config.packs_per_step % data_ranks:
            raise ValueError(f"{data_ranks} ranks do not divide {config.packs_per_step} packs")
        self._source, self._config, self._patch = source, config, patch
        self._data_rank, self._data_ranks = data_rank, data_ranks
        self._image_conditioned, self._pinned = image_conditioned, pinned
        self._cost: Cost | None = cache(cost) if cost else None  # of a few lengths, many times
        self._sharing = sharing or Sharing.alone(self._cost or float)
        _check_entries(source.entries, config, patch)
        self._held: list[int] = []
        self._streamed: dict[Kind, Indices] = {}
        for kind, quota in _quotas(config.image_share, holdout).items():
            held, streamed = _split(source.entries, kind, quota, holdout)
            self._held += held
            self._streamed[kind] = streamed
        groups = [np.array(self._held, np.intp), *self._streamed.values()]
        self._spares = Spares(source, groups, most=config.damaged_samples)
        self._tokens_F = np.array([_tokens(form, patch) for form in source.entries.forms], np.int64)
        self._stream = Stream(
            images=len(self._streamed[Kind.IMAGE]),
            videos=len(self._streamed[Kind.VIDEO]),
            image_share=config.image_share,
            seed=config.seed,
        )

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        """Feed.steps."""
        with closing(beside(self._plans(samples_seen))) as planned:
            plans, sent = tee(planned)
            mine = (pack for plan in sent for pack in self._own(plan))
            with closing(ahead(self._train, mine, depth=self._config.prefetch_packs)) as loaded:
                for plan in plans:
                    packs = list(islice(loaded, len(self._own(plan))))
                    yield StepBatch(
                        packs,
                        samples=plan.samples,
                        tokens=plan.tokens,
                        samples_seen=plan.samples_seen,
                        imbalance=plan.imbalance,
                        degree=fmean(division.degree for division in plan.divisions),
                    )

    def validation(self) -> list[Batch]:
        """The held-out samples, one to a pack, with captions: the same on every call and rank."""
        alone = self._sharing.whole(1)
        return [
            self._batch([self._load(index, caption=True)], (ordinal,), alone)
            for ordinal, index in enumerate(self._held)
        ]

    def _plans(self, samples_seen: int) -> Iterator[_Plan]:
        while True:
            plan = self._plan(samples_seen)
            yield plan
            samples_seen = plan.samples_seen

    def _plan(self, start: int) -> _Plan:
        tokens_of, budget = Lengths(self._lengths, start), self._config.pack_tokens
        packs, end = packing.plan(
            tokens_of, start, packs=self._config.packs_per_step, budget=budget
        )
        if self._cost is not None:
            packs = balance.even(packs, tokens_of, self._cost, budget=budget)
        divisions = tuple(self._sharing.divide(list(map(tokens_of, pack))) for pack in packs)
        return _Plan(
            packs,
            divisions,
            samples=end - start,
            tokens=sum(map(tokens_of, range(start, end))),
            samples_seen=end,
            imbalance=balance.imbalance(
                [division.time for division in divisions],
                even=[division.even for division in divisions],
                ranks=self._data_ranks,
            ),
        )

    def _own(self, plan: _Plan) -> list[tuple[Pack, Division]]:
        both = list(zip(plan.packs, plan.divisions, strict=True))
        return both[self._data_rank :: self._data_ranks]

    def _indices(self, ordinal_N: Integers) -> Integers:
        """In the source, of the samples at these ordinals of the stream."""
        is_image_N, number_N = self._stream.at(ordinal_N)
        index_N = np.empty_like(ordinal_N)
        for kind, is_kind_N in ((Kind.IMAGE, is_image_N), (Kind.VIDEO, ~is_image_N)):
            index_N[is_kind_N] = self._streamed[kind][number_N[is_kind_N]]
        return index_N

    def _lengths(self, ordinal_N: Integers) -> list[int]:
        """Tokens of these samples."""
        lengths: list[int] = self._tokens_F[
            self._source.entries.form_N[self._indices(ordinal_N)]
        ].tolist()
        return lengths

    def _train(self, planned: tuple[Pack, Division]) -> Batch:
        pack, division = planned
        indices = self._indices(np.array(pack)).tolist()
        samples = [
            self._load(index, caption=self._captioned(ordinal))
            for index, ordinal in zip(indices, pack, strict=True)
        ]
        batch = self._batch(samples, pack, division)
        return batch.pinned() if self._pinned else batch

    def _load(self, index: int, *, caption: bool) -> Sample:
        return patiently(
            lambda: self._spares.load(index, caption=caption), seconds=_STORE_AWAY_SECONDS
        )

    def _captioned(self, ordinal: int) -> bool:
        return unit("caption", self._config.seed, ordinal) >= self._config.caption_dropout

    def _batch(
        self, samples: Sequence[Sample], ordinals: tuple[int, ...], division: Division
    ) -> Batch:
        grids = [self._grid(sample.latent_CTHW) for sample in samples]
        reference_NP = None
        if self._image_conditioned:
            reference_NP = torch.cat([patchify(_still(sample), self._patch) for sample in samples])
        return Batch(
            x_NP=torch.cat([patchify(sample.latent_CTHW, self._patch) for sample in samples]),
            text_MY=torch.cat([sample.text_LY for sample in samples]),
            layout=Layout.build(grids, [len(sample.text_LY) for sample in samples]),
            ordinals=ordinals,
            reference_NP=reference_NP,
            division=division,
        )

    def _grid(self, z_CTHW: Tensor) -> tuple[int, int, int]:
        _, frames, height, width = z_CTHW.shape
        return frames, height // self._patch, width // self._patch


def _still(sample: Sample) -> Tensor:
    """The first frame's latent, held for the length of the clip (paper section 2.5)."""
    return sample.first_CHW[:, None].expand_as(sample.latent_CTHW)


def _tokens(sample: Entry | Form, patch: int) -> int:
    frames, height, width = sample.shape
    return frames * (height // patch) * (width // patch)


def _quotas(image_share: float, holdout: int) -> dict[Kind, int]:
    """How many of each kind are held out: in the proportion of training."""
    images = int(holdout * Fraction(str(image_share)) + Fraction(1, 2))
    return {Kind.IMAGE: images, Kind.VIDEO: holdout - images}


def _split(entries: Catalog, kind: Kind, quota: int, holdout: int) -> tuple[list[int], Indices]:
    """Indices of one kind, held out and streamed, the latter in the order of ids."""
    index_N = entries.of_kind(kind)
    if 0 < len(index_N) <= quota:
        raise ConfigError(
            f"training.validation_samples={holdout}",
            f"{quota} of the {len(index_N)} {kind}s would be held out, none is left to train on",
            "Lower it, or curate more.",
        )
    held = nsmallest(quota, map(int, index_N), key=lambda at: unit("holdout", entries[at].id))
    return held, index_N[~np.isin(index_N, held)]


def _check_entries(entries: Catalog, config: DataConfig, patch: int) -> None:
    asked = kinds(config.image_share)
    for entry in (entry for entry in entries.examples() if entry.kind in asked):
        if entry.shape[1] % patch or entry.shape[2] % patch:
            raise ConfigError(
                f"model.patch_size={patch}",
                f"it does not cut the {entry.shape[1]}x{entry.shape[2]} latents of clip {entry.id}",
                "Use 1 or 2.",
            )
        if _tokens(entry, patch) > config.pack_tokens:
            raise ConfigError(
                f"data.pack_tokens={config.pack_tokens}",
                f"clip {entry.id} has {_tokens(entry, patch)} tokens",
                "Raise it, or use clips that were encoded at a smaller size.",
            )
