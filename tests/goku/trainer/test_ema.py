"""The average follows its formula, fragment by fragment."""

import pytest
import torch

from goku.parallel.engine import Fragment
from goku.trainer.ema import Ema


def fragment(name: str, master: torch.Tensor) -> Fragment:
    zeros = torch.zeros_like(master)
    return Fragment(name, (len(master),), 0, master, zeros, zeros.clone())


def test_follows_the_formula_in_float64() -> None:
    torch.manual_seed(0)
    masters = [torch.randn(5), torch.randn(3)]
    ema = Ema([fragment("a", masters[0]), fragment("b", masters[1])], decay=0.9)
    expected = [master.double().clone() for master in masters]
    for step in range(1, 200):
        for master in masters:
            master += 0.1 * torch.randn(len(master))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [
            decay * e + (1 - decay) * m.double() for e, m in zip(expected, masters, strict=True)
        ]
    for value, e in zip(ema.values.values(), expected, strict=True):
        torch.testing.assert_close(value.double(), e, rtol=1e-6, atol=1e-6)


def test_neighbours_in_memory_are_averaged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU waits for the host there: an engine's fragments are parts of a few flat tensors."""
    flat, other = torch.randn(20), torch.randn(4)
    parts = [flat[2:5], flat[5:11], other, flat[12:15], flat[15:20]]
    before = [part.clone() for part in parts]
    ema = Ema([fragment(str(n), part) for n, part in enumerate(parts)], decay=0.5)
    for part in parts:
        part.add_(1.0)
    lerp, together = torch._foreach_lerp_, list[list[int]]()

    def spy(averages: list[torch.Tensor], *rest: object) -> None:
        together.append(list(map(len, averages)))
        lerp(averages, *rest)

    monkeypatch.setattr(torch, "_foreach_lerp_", spy)
    ema.update(1)
    assert together == [[9, 4, 8]]
    for value, old in zip(ema.values.values(), before, strict=True):
        torch.testing.assert_close(value, old + 1 - 2 / 11)


def test_does_not_alias_the_masters() -> None:
    master = torch.ones(4)
    ema = Ema([fragment("a", master)], decay=0.5)
    master.zero_()
    assert torch.equal(ema.values["a"], torch.ones(4))
