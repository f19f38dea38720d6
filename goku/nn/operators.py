"""Functions made known to PyTorch as operators, so that torch.compile leaves them whole.

`torch.library.custom_op` would do the same, but looks at every call for aliases and mutations:
tens of microseconds, several hundred times in a step, more than a short pack takes to compute.
These operators neither alias nor change their arguments.
"""

from collections.abc import Callable
from typing import Any

import torch

PRODUCTS: set[Any] = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
"""Operators that are products, whose results selective recomputation may keep."""
CLOSING: set[Any] = set()
"""The MLP's last product: of all, it takes the most work for each row that it leaves."""

_LIBRARY: Any = torch.library.Library("goku", "FRAGMENT")  # type: ignore[no-untyped-call]


def operator(name: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """The operator goku::name. `fake` gives outputs of the right shapes, with nothing in them.

    It reads sizes from `shape`: len() of a tensor binds a compiled block to that one size.
    """
    schema = torch.library.infer_schema(kernel, mutates_args=())
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"goku::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.goku, name).default
