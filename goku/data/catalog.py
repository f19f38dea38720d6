"""What a source holds, in columns: every rank knows of every sample, and there may be hundreds of
millions. A sample takes the bytes of its id and four more; a tuple for each would take 250.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from goku.data.records import Kind

Indices = NDArray[np.intp]


class Form(NamedTuple):
    """What many samples have in common."""

    kind: Kind
    shape: tuple[int, int, int]  # latent frames, height, width
    text_length: int | None  # None until the caption is encoded

    def __str__(self) -> str:
        return f"{self.kind} {self.shape} {self.text_length}"


class Entry(NamedTuple):
    """What is known of a sample before it is loaded."""

    id: str
    kind: Kind
    shape: tuple[int, int, int]
    text_length: int | None

    @property
    def form(self) -> Form:
        """All but the id."""
        return Form(*self[1:])


class Catalog:
    """Entries by index. `form_N` holds numbers of `forms`."""

    def __init__(
        self, id_N: NDArray[np.bytes_], form_N: NDArray[np.int32], forms: Sequence[Form]
    ) -> None:
        self.id_N, self.form_N, self.forms = id_N, form_N, forms

    @classmethod
    def of(cls, parts: Iterable[Sequence[Entry]]) -> "Catalog":
        """All entries of all parts, in their order. A part is let go of once it is read."""
        numbers: dict[Form, int] = {}
        ids: list[NDArray[np.bytes_]] = [np.array([], "S1")]
        forms: list[NDArray[np.int32]] = [np.array([], np.int32)]
        for part in parts:
            ids.append(np.array([entry.id.encode() for entry in part], np.bytes_))
            found = (numbers.setdefault(entry.form, len(numbers)) for entry in part)
            forms.append(np.fromiter(found, np.int32, len(part)))
        return cls(np.concatenate(ids), np.concatenate(forms), list(numbers))

    def __len__(self) -> int:
        return len(self.id_N)

    def __getitem__(self, index: int) -> Entry:
        return Entry(self.id_N[index].decode(), *self.forms[self.form_N[index]])

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def take(self, index_M: Indices) -> "Catalog":
        """These entries alone, in this order."""
        return Catalog(self.id_N[index_M], self.form_N[index_M], self.forms)

    def distinct(self) -> Indices:
        """Indices in the order of ids; of entries with one id the last."""
        index_N: Indices = np.argsort(self.id_N, kind="stable")
        id_N = self.id_N[index_N]
        is_last_N = np.ones(len(id_N), np.bool_)
        is_last_N[:-1] = id_N[1:] != id_N[:-1]
        return np.compress(is_last_N, index_N)

    def of_kind(self, kind: Kind) -> Indices:
        """Indices of one kind, in the order of ids."""
        is_kind = np.array([form.kind is kind for form in self.forms], np.bool_)
        index_M = np.flatnonzero(is_kind[self.form_N])
        return index_M[np.argsort(self.id_N[index_M], kind="stable")]

    def examples(self) -> Iterator[Entry]:
        """One entry of each form that there is, the first."""
        return map(self.__getitem__, np.unique(self.form_N, return_index=True)[1].tolist())

    def digest(self) -> str:
        """Of all entries in their order, whatever numbers their forms have."""
        used = np.unique(self.form_N).tolist()
        used.sort(key=lambda number: str(self.forms[number]))
        number_F = np.zeros(len(self.forms), np.int32)
        number_F[used] = np.arange(len(used))
        hashed = hashlib.blake2b(digest_size=16)
        hashed.update("\n".join(str(self.forms[number]) for number in used).encode())
        hashed.update(number_F[self.form_N].data)
        hashed.update(self.id_N.data)
        return hashed.hexdigest()
