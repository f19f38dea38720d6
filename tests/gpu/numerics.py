"""On a GPU: attention kernels, fused kernels, compilation and recomputation against float64.

`python -m tests.gpu.numerics` prints one line for each check and exits with 1 if one failed.
"""

import sys
import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from goku.config.memory import Keep, Policy
from goku.config.model import ModelConfig
from goku.model import Goku, build
from goku.nn.attend import choose, native
from goku.nn.attend.ops import Attend
from goku.nn.fused import Fused
from goku.nn.layout import Layout
from goku.nn.rowwise import use
from goku.parallel.compile import compile_blocks
from goku.parallel.lane import Lane
from goku.parallel.offload import offload
from goku.parallel.recompute import recompute

DEVICE = torch.device("cuda")
CONFIG = ModelConfig(layers=2, width=256, heads=4, text_width=64, latent_channels=4)
GRIDS = [(1, 16, 16), (3, 10, 14), (2, 5, 7), (1, 16, 16)]
TEXTS = [77, 1, 30, 20]

Tell = Callable[[str, float, float], None]


def error(found: Tensor, expected: Tensor) -> float:
    norm = expected.double().norm()
    return float((found.detach().double().to(expected.device) - expected.double()).norm() / norm)


def attention(name: str, shape: choose.Shape) -> float:
    """The worst relative error of a kernel's output and gradients."""
    torch.manual_seed(0)
    inputs, spans = choose.random_inputs(shape, DEVICE)
    gradient = torch.randn_like(inputs[0])
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected_o = native.reference(*wide, *spans)
    expected = [expected_o, *torch.autograd.grad(expected_o, wide, gradient.double())]
    o = choose.load(name)(*inputs, *spans)
    found = [o, *torch.autograd.grad(o, inputs, gradient)]
    return max(error(f, e) for f, e in zip(found, expected, strict=True))


def computed(
    model: Goku, texts: list[int], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Velocities and every gradient on a fixed pack."""
    generator = torch.Generator().manual_seed(3)
    layout = Layout.build(GRIDS, texts)
    x_NP = torch.randn(layout.tokens, CONFIG.token_width, generator=generator)
    text_MY = torch.randn(sum(texts), CONFIG.text_width, generator=generator)
    t_S = torch.rand(layout.segments, generator=generator)
    weight_NP = torch.randn(x_NP.shape, generator=generator)
    x_NP, text_MY, weight_NP = (x.bfloat16().to(device, dtype) for x in (x_NP, text_MY, weight_NP))
    model.zero_grad()
    v_NP = model(x_NP, t_S.to(device), text_MY, layout.to(device))
    (v_NP * weight_NP).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"velocity": v_NP.detach(), **grads}


def rounded() -> Goku:
    """A model with no weight at zero whose logits are about 1, with weights that bf16 holds."""
    model = build(CONFIG, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            noise = 0.05 * torch.randn(p.shape, generator=generator)
            p.copy_((p + noise if p.ndim == 1 or not p.any() else p).bfloat16())
    return model


def tuned(
    attend: Attend, keep: Keep, *, compiled: bool, dtype: torch.dtype = torch.bfloat16
) -> Goku:
    torch._dynamo.reset()
    model = rounded().to(DEVICE, dtype)
    use(model, Fused())
    for block in model.blocks:
        block.attention.attend = block.text_attention.attend = attend
    recompute(list(model.blocks), Policy(keep))
    if compiled:
        compile_blocks(model.blocks)
    offload(list(model.blocks), Policy(keep), Lane(DEVICE), compiled=compiled, least_bytes=1)
    return model


def check_model(tell: Tell, names: list[str]) -> None:
    """Everything fused in fp32, then in bf16 by each kernel, with no more error than plain bf16."""
    cases: list[tuple[str, Keep, bool]] = [(name, "none", True) for name in names]
    keeps: tuple[Keep, ...] = ("none", "products", "mlp", "attention", "offload", "full")
    cases += [(names[0], keep, compiled) for keep in keeps for compiled in (False, True)]
    for texts in (TEXTS, [77, 0, 30, 20]):
        exact = computed(rounded().double(), texts, torch.device("cpu"), torch.float64)

        def worst(
            model: Goku,
            dtype: torch.dtype,
            texts: list[int] = texts,
            exact: dict[str, Tensor] = exact,
        ) -> tuple[float, str]:
            found = computed(model, texts, DEVICE, dtype)
            return max((error(found[n], e), n) for n, e in exact.items() if e.any())

        fused = tuned(native.attend, "none", compiled=False, dtype=torch.float32)
        error_, part = worst(fused, torch.float32)
        tell(f"model in fp32, fused, texts {texts}: {part}", error_, 2e-5)
        plain, part = worst(rounded().to(DEVICE, torch.bfloat16), torch.bfloat16)
        tell(f"model in bf16, plain, texts {texts}: {part}", plain, 0.1)
        for name, keep, compiled in cases:
            model = tuned(choose.load(name), keep, compiled=compiled)
            error_, part = worst(model, torch.bfloat16)
            what = f"model {name}, recompute {keep}, compiled {compiled}, texts {texts}: {part}"
            tell(what, error_, 1.2 * plain)


def main() -> int:
    failed = 0

    def tell(what: str, worst: float, bound: float) -> None:
        nonlocal failed
        good = worst < bound
        failed += not good
        print(f"{'ok  ' if good else 'BAD '} {worst:.1e}  {what}", flush=True)

    packs = {
        "mixed": ((1000, 256, 256, 37), (77, 256, 1, 300)),
        "one": ((1500,), (1500,)),
        "no text": ((200, 300, 100), (50, 0, 20)),
        "few keys": ((9000, 100, 8000), (300, 0, 77)),
        "images": ((256, 250, 256), (256, 250, 256)),
    }
    names = []
    for name in choose.KERNELS:
        try:
            choose.load(name)
        except Exception as problem:
            print(f"     {name} is out: {problem!r}"[:150], flush=True)
            continue
        names.append(name)
        for pack, (q, k) in packs.items():
            try:
                worst = attention(name, choose.Shape(4, 64, torch.bfloat16, q, k))
            except Exception:
                traceback.print_exc()
                worst = float("nan")
            tell(f"attention {name}, {pack}", worst, 1e-2)
    check_model(tell, names)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
