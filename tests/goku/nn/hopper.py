"""Kernels compiled for an H200, which takes no GPU."""

import inspect
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from goku.nn.attend.short import BACKWARD, FORWARD
from goku.nn.kernels import short

HOPPER = GPUTarget("cuda", 90, 32)
_TYPES = {
    "lse": "*fp32",
    "sums": "*fp32",
    "deltas": "*fp32",
    "q_starts": "*i32",
    "k_starts": "*i32",
}
_TYPES |= {"scale": "fp32", **dict.fromkeys(("tokens", "blocks", "runs", "run"), "i32")}


def assembled(name: str, width: int) -> str:
    """PTX of `goku.nn.kernels.short`'s forward or backward in bf16, for heads of this width."""
    kernel: Any = getattr(short, name)
    tile = {"forward": FORWARD, "backward": BACKWARD}[name]
    fixed = {"HEADS": 28, "WIDTH": width, "ALONE": True, **tile}
    names = list(inspect.signature(kernel.fn).parameters)
    constants = {name: fixed[name] for name in names if name.isupper()}
    types = {name: _TYPES.get(name, "*bf16") for name in names if not name.isupper()}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n, t in types.items() if "*" in t}
    source = ASTSource(
        fn=kernel,
        signature={**types, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs=aligned,
    )
    made = compile(source, target=HOPPER, options={"num_warps": tile["num_warps"]})
    return str(made.asm["ptx"])
