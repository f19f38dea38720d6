"""How many graphs compiled blocks need for packs of different make-up: no GPU is needed.

A program of its own, because every operator gets a kernel here that only makes room for its
results: what is compiled depends on shapes alone. `test_compile` starts it. Prints a line for each
case: its name, the graphs after packs of several segments, and those after one of a single one.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from goku.config.memory import Keep, Policy
from goku.nn import operators
from goku.parallel.compile import compile_blocks, graphs

make = operators.operator


def hollow(name: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """The operator with its fake for a kernel."""

    @functools.wraps(kernel)
    def run(*given: Any, **named: Any) -> Any:
        return fake(*given, **named)

    return make(name, run, fake)


operators.operator = hollow  # before any operator is made

from goku.config.model import ModelConfig  # noqa: E402
from goku.config.parallel import Products  # noqa: E402
from goku.config.presets import SIZES  # noqa: E402
from goku.model import build  # noqa: E402
from goku.nn.attend import ops  # noqa: E402
from goku.nn.fused import Fused  # noqa: E402
from goku.nn.kernels import eight  # noqa: E402
from goku.nn.layout import Layout  # noqa: E402
from goku.nn.rowwise import use  # noqa: E402
from goku.parallel.recompute import recompute  # noqa: E402

MODEL = ModelConfig.build({**SIZES["tiny"], "layers": 2})
# of the first pack sizes coincide: as many tokens as text, segments and boundaries as head channels
PACKS = [
    ([8, 4, 4, 4, 4, 4, 4], [8, 4, 4, 4, 4, 4, 4]),
    ([36, 4], [3, 7]),
    ([4] * 17, [5] * 17),
    ([20, 16, 7], [0, 1, 2]),
]
SINGLE = ([50], [9])


class Nothing:
    """In place of a Triton kernel that the compiler would see."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *_given, **_named: None


def step(model: Any, lengths: list[int], texts: list[int]) -> None:
    layout = Layout.build([(1, 1, length) for length in lengths], texts)
    x_NP = torch.randn(layout.tokens, MODEL.token_width)
    stored = torch.bfloat16 if len(lengths) % 2 else torch.float32  # of captions: cached, or not
    text_MY = torch.randn(sum(texts), MODEL.text_width, dtype=stored)
    model(x_NP, torch.rand(len(lengths)), text_MY, layout).square().mean().backward()


def case(keep: Keep, products: Products) -> tuple[int, int]:
    torch._dynamo.reset()
    before, model = graphs(), build(MODEL, seed=0)
    use(model, Fused(products))
    blocks: list[Any] = list(model.blocks.children())
    for block in blocks:
        block.attention.attend = block.text_attention.attend = attend
    if keep != "none":
        recompute(blocks, Policy(keep))
    compile_blocks(blocks)
    for pack in PACKS:
        step(model, *pack)
    several = graphs() - before
    step(model, *SINGLE)
    return several, graphs() - before


attend = ops.operator("hollow", lambda *_: None, lambda *_: None)  # type: ignore[arg-type, return-value]  # never asked
torch.compile = functools.partial(torch.compile, backend="aot_eager")  # type: ignore[misc]
eight._quantize = eight._activate = Nothing()
for keep, products in (("none", "bf16"), ("mlp", "bf16"), ("none", "fp8_mlp"), ("none", "fp8")):
    print(keep, products, *case(keep, products))  # type: ignore[arg-type]  # a Keep and Products
