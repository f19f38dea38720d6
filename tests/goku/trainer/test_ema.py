"""The average follows its formula, fragment by fragment."""

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


def test_does_not_alias_the_masters() -> None:
    master = torch.ones(4)
    ema = Ema([fragment("a", master)], decay=0.5)
    master.zero_()
    assert torch.equal(ema.values["a"], torch.ones(4))
