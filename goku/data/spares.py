"""Samples in place of damaged ones: one broken clip of ten million does not end a run.

Which one stands in follows from the data alone, and it is as large: every rank and every attempt
take the same one, and no plan of a step changes. Each damaged sample is named and counted.
"""

import threading
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from goku.config.errors import ConfigError
from goku.data.catalog import Indices
from goku.data.encoding import Sample
from goku.data.shards import BrokenShard
from goku.data.source import Source
from goku.data.video import BadMedia


class Spares:
    """A source whose damaged samples are replaced by others of their kind and shape."""

    def __init__(self, source: Source, groups: Sequence[Indices], *, most: int) -> None:
        """What stands in comes from the same one of `groups`, which hold indices of the source.

        `most` samples may be damaged.
        """
        self._source, self._groups, self._most = source, groups, most
        self._damaged: set[int] = set()
        self._lock = threading.Lock()

    def load(self, index: int, *, caption: bool) -> Sample:
        """Source.load of the sample or of the first whole one behind it. Any thread.

        Raises ConfigError for one damaged sample too many, or if all of its shape are damaged.
        """
        for candidate in chain([index], self._others(index)):
            if candidate not in self._damaged:
                sample = self._read(candidate, caption)
                if sample is not None:
                    return sample
        raise ConfigError(
            f"data, clip {self._source.entries[index].id}",
            "it is damaged, and there is no whole one of its shape to take its place",
            "Curate or encode the clips again under another run name.",
        )

    def _read(self, index: int, caption: bool) -> Sample | None:
        """None if it is damaged: twice, for what changed on its way here is whole the next time."""
        try:
            return self._source.load(index, caption=caption)
        except (BadMedia, BrokenShard):
            pass
        try:
            return self._source.load(index, caption=caption)
        except (BadMedia, BrokenShard) as error:
            self._count(index, error)
            return None

    def _count(self, index: int, error: Exception) -> None:
        with self._lock:
            if index in self._damaged:
                return
            if len(self._damaged) == self._most:
                raise ConfigError(
                    f"data.damaged_samples={self._most}",
                    f"this rank has met one more: {error}",
                    "Curate or encode the clips again under another run name, or raise it.",
                ) from error
            self._damaged.add(index)
            print(
                f"warning: clip {self._source.entries[index].id} is damaged, another takes its "
                f"place ({len(self._damaged)} of at most {self._most} on this rank): {error}",
                flush=True,
            )

    def _others(self, index: int) -> Iterator[int]:
        """All of its kind and shape in its group, from the one behind it on."""
        entries = self._source.entries
        _, kind, shape, _ = entries[index]
        is_alike_F = np.array([(form.kind, form.shape) == (kind, shape) for form in entries.forms])
        for group_N in self._groups:
            for place in np.flatnonzero(group_N == index).tolist():
                other_N = np.roll(group_N, -1 - place)
                yield from map(int, other_N[is_alike_F[entries.form_N[other_N]]])
