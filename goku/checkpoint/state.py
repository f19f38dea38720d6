"""What a checkpoint holds, and under which names.

    model/<parameter>        fp32 master weights
    exp_avg/<parameter>      Adam's first moment
    exp_avg_sq/<parameter>   Adam's second moment
    ema/<parameter>          averaged weights
    rng/<rank>/cpu, /cuda    generator states, as bytes

Step, samples seen and Adam's step count are numbers in the manifest. Nothing else is needed: the
order of samples follows from the seed and the samples seen.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from goku.parallel.engine import Fragment

MODEL, EXP_AVG, EXP_AVG_SQ, EMA, RNG = "model", "exp_avg", "exp_avg_sq", "ema", "rng"


class NamedPiece(NamedTuple):
    """Elements [start, start + len(tensor)) of the flattened tensor `name`; `tensor` is 1-D."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    start: int
    tensor: Tensor


def pieces(
    fragments: Sequence[Fragment], ema: Mapping[str, Tensor], *, rank: int
) -> list[NamedPiece]:
    """All that this rank has to save. `ema` has its interval of each average, by parameter name."""
    return [*sharded(fragments, ema), *generators(rank)]


def sharded(fragments: Sequence[Fragment], ema: Mapping[str, Tensor]) -> list[NamedPiece]:
    """The state that all ranks hold together. The tensors are live: reading into them restores."""
    return [
        *masters(fragments),
        *(_piece(EXP_AVG, fragment, fragment.exp_avg) for fragment in fragments),
        *(_piece(EXP_AVG_SQ, fragment, fragment.exp_avg_sq) for fragment in fragments),
        *(_piece(EMA, fragment, ema[fragment.name]) for fragment in fragments),
    ]


def masters(fragments: Sequence[Fragment], kind: str = MODEL) -> list[NamedPiece]:
    """The fragments' master weights, live, under the name of one `kind` of saved weights."""
    return [_piece(kind, fragment, fragment.master) for fragment in fragments]


def generators(rank: int) -> list[NamedPiece]:
    """Copies of the states of this process's random generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return [
        NamedPiece(f"{RNG}/{rank}/{device}", tuple(state.shape), 0, state)
        for device, state in states.items()
    ]


def set_generators(saved: Sequence[NamedPiece]) -> None:
    """Put this process's generators into the states that `generators` gave, here or elsewhere."""
    for piece in saved:
        if piece.name.endswith("/cpu"):
            torch.set_rng_state(piece.tensor)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(piece.tensor)


def _piece(kind: str, fragment: Fragment, tensor: Tensor) -> NamedPiece:
    return NamedPiece(f"{kind}/{fragment.name}", fragment.shape, fragment.start, tensor)
