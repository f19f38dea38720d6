"""Diff: what two checkpoints hold in common, and how far the rest lies apart.

Both are read as streams and compared interval by interval, so that it matters neither how many
ranks wrote each of them nor how large they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from goku.contract.manifest import Manifest
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku_platform.runs.checkpoints.look import complete
from goku_platform.runs.checkpoints.values import Array, Floats, stretches, to_float
from goku_platform.runs.checkpoints.watched import Tell, Watched


class Number(BaseModel):
    """A figure of the manifest that differs."""

    model_config = ConfigDict(frozen=True)

    name: str
    values: tuple[int | str, int | str]


class Change(BaseModel):
    """A tensor that differs. Without `elements` it could not be compared: `what` says why."""

    model_config = ConfigDict(frozen=True)

    name: str
    what: str
    elements: int | None = None  # that differ; two NaN are equal
    largest: float | None = None  # absolute difference; None if it is not finite


class Difference(BaseModel):
    """Two checkpoints side by side."""

    model_config = ConfigDict(frozen=True)

    one: str  # run and step
    other: str
    numbers: tuple[Number, ...]
    same: int  # tensors that are equal
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Side:
    """One checkpoint to compare."""

    run: RunDir
    manifest: Manifest

    def __str__(self) -> str:
        return f"{self.run.name} step {self.manifest.step}"


def side(run: RunDir, step: int | None) -> Side:
    """A step's checkpoint, or the latest. Raises RunError, CorruptCheckpoint."""
    return Side(run, complete(run, step))


def diff(one: Side, other: Side, tell: Tell = lambda _: None) -> Difference:
    """Compare every tensor that both have, and say which they do not both have."""
    names = {**one.manifest.tensors, **other.manifest.tensors}
    folders = tuple(Watched(s.run.checkpoint(s.manifest.step), tell) for s in (one, other))
    found = [_compared(name, one.manifest, other.manifest, folders) for name in names]
    changes = tuple(change for change in found if change is not None)
    return Difference(
        one=str(one),
        other=str(other),
        numbers=tuple(_numbers(one.manifest, other.manifest)),
        same=len(names) - len(changes),
        changes=changes,
    )


def _numbers(one: Manifest, other: Manifest) -> Iterator[Number]:
    for name in (
        "attempt", "samples_seen", "optimizer_steps", "world_size", "config_digest", "code_version"
    ):  # fmt: skip
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            yield Number(name=name, values=values)


def _compared(
    name: str, one: Manifest, other: Manifest, folders: tuple[Store, ...]
) -> Change | None:
    entries = [manifest.tensors.get(name) for manifest in (one, other)]
    a, b = entries
    if a is None or b is None:
        return Change(name=name, what=f"only in the {'second' if a is None else 'first'}")
    if a.shape != b.shape:
        return Change(name=name, what=f"shape {_shape(a.shape)} and {_shape(b.shape)}")
    streams = (stretches(folders[0], name, a), stretches(folders[1], name, b))
    elements, largest = 0, 0.0
    for x, y in _side_by_side(*streams):
        apart = _apart(to_float(x, a.dtype), to_float(y, b.dtype))
        elements += int(np.count_nonzero(apart))
        largest = max(largest, float(apart.max(initial=0.0)))
    if elements:
        finite = largest if np.isfinite(largest) else None
        return Change(name=name, what="values", elements=elements, largest=finite)
    if a.dtype != b.dtype:
        return Change(name=name, what=f"dtype {a.dtype} and {b.dtype}", elements=0, largest=0.0)
    return None


def _side_by_side(one: Iterator[Array], other: Iterator[Array]) -> Iterator[tuple[Array, Array]]:
    """The values of two cuts of one length, in steps that both cuts allow."""
    nothing: Array = np.empty(0)
    x = y = nothing
    while True:
        x = x if len(x) else next(one, nothing)
        y = y if len(y) else next(other, nothing)
        length = min(len(x), len(y))
        if not length:
            return
        yield x[:length], y[:length]
        x, y = x[length:], y[length:]


def _apart(x: Floats, y: Floats) -> NDArray[np.float64]:
    """How far apart, element by element, in float64."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(x.astype(np.float64) - y.astype(np.float64))
    apart[x == y] = 0.0  # equal infinities too
    apart[np.isnan(apart)] = np.inf
    apart[np.isnan(x) & np.isnan(y)] = 0.0
    return apart


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
