"""A copy in host memory: the same values and dtypes, whatever becomes of the original."""

import pytest
import torch
from torch import Tensor

from goku.checkpoint.snapshot import Snapshot, nbytes
from goku.checkpoint.state import NamedPiece

CPU = torch.device("cpu")


def pieces() -> list[NamedPiece]:
    flats = torch.arange(11.0), torch.arange(20.0, 31.0)  # two groups, whose parts take turns
    tensors: dict[str, Tensor] = {
        **{f"exp_avg/{turn}": flats[turn % 2][turn // 2 * 2 :][:2] for turn in range(8)},
        "rng/0/cpu": torch.arange(13, dtype=torch.uint8),  # the next one must still be aligned
        "model/weight": torch.arange(5.0),
        "model/half": torch.arange(3).to(torch.bfloat16),
        "model/nothing": torch.empty(0),
        "ema/strided": torch.arange(8.0)[::2],
    }
    return [NamedPiece(name, (99,), 7, tensor) for name, tensor in tensors.items()]


def test_a_snapshot_stays_as_the_state_was() -> None:
    state = pieces()
    subject = Snapshot(state, device=CPU)
    for turn in range(2):
        for piece in state:
            piece.tensor.add_(turn)
        expected = [piece.tensor.clone() for piece in state]
        subject.take(state)
        subject.wait()
        for piece in state:
            piece.tensor.zero_()
        for copy, piece, values in zip(subject.pieces, state, expected, strict=True):
            assert copy[:3] == piece[:3]
            assert copy.tensor.dtype == values.dtype
            assert torch.equal(copy.tensor, values)


def test_its_memory_is_what_was_announced() -> None:
    subject = Snapshot(pieces(), device=CPU)
    groups = 2 * 32  # of four parts of two numbers each, without a gap
    assert nbytes(pieces()) == groups + 16 + 24 + 8 + 0 + 16
    storages = {piece.tensor.untyped_storage().data_ptr() for piece in subject.pieces}
    assert len(storages) == 1


def test_what_lies_together_is_copied_at_once() -> None:
    members = [run.members for run in Snapshot(pieces(), device=CPU)._runs]
    assert (0, 2, 4, 6) in members
    assert (1, 3, 5, 7) in members
    assert sum(map(len, members)) == len(pieces())


def test_a_state_that_has_moved_is_our_own_mistake() -> None:
    subject = Snapshot(pieces(), device=CPU)
    moved = pieces()
    moved[2] = moved[2]._replace(tensor=torch.arange(2.0))
    with pytest.raises(AssertionError, match="the state has moved"):
        subject.take(moved)


def test_another_state_is_our_own_mistake() -> None:
    state = pieces()
    subject = Snapshot(state, device=CPU)
    with pytest.raises(AssertionError, match="another state"):
        subject.take([state[1], state[0], *state[2:]])
