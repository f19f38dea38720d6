"""The fused kernels against plain PyTorch, run by Triton's interpreter: no GPU is needed.

A program of its own, because Triton decides when it is first imported whether it interprets:
`test_fused` starts it with TRITON_INTERPRET=1. Exits with an AssertionError where they differ.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.runtime import interpreter

from goku.config.model import ModelConfig
from goku.nn.fused import Fused
from goku.nn.layout import Layout
from goku.nn.norm import LayerNorm, RMSNorm
from goku.nn.rope import Rotation
from goku.nn.rowwise import PLAIN, Rowwise, use
from goku.parallel.compile import compile_blocks
from tests.goku.model.packs import packed, random_model, samples
from tests.goku.nn import by_hand

D, HEADS = 24, 2  # no power of two: the kernels mask
LAYOUT = Layout.build([(1, 3, 7), (1, 1, 1), (2, 3, 3)], [1, 1, 1])
N, S = LAYOUT.tokens, LAYOUT.segments
CONFIG = ModelConfig(
    layers=2, width=32, heads=2, text_width=24, latent_channels=3, timestep_width=10
)

Case = Callable[[Rowwise, dict[str, Tensor]], tuple[Tensor, ...]]


def leaves() -> dict[str, Tensor]:
    torch.manual_seed(0)
    sizes = {"x": (N, D), "branch": (N, D), "bias": (D,), "vectors": (S, 3 * D), "weight": (D,)}
    sizes |= {"first": (D, D), "second": (D, D)}
    return {name: torch.randn(size, requires_grad=True) for name, size in sizes.items()}


def rms(weight_D: Tensor) -> RMSNorm:
    norm = RMSNorm(D)
    norm.weight = torch.nn.Parameter(weight_D.detach())
    return norm


def linear(weight: Tensor, bias: Tensor | None = None) -> Any:
    """What asks for a linear reads its weight and bias, or calls it."""
    module = torch.nn.Linear(*weight.shape, bias=bias is not None)
    del module.weight
    module.weight = weight  # a leaf of the test's: its gradient is looked at
    if bias is not None:
        del module.bias
        module.bias = bias
    return module


def cases() -> dict[str, Case]:
    rotation = Rotation.build(
        LAYOUT.position_N3, head_width=D // HEADS, theta=100.0, dtype=torch.float32
    )
    layer = LayerNorm(D)

    def open_block(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        shift, scale, _ = given["vectors"].chunk(3, -1)
        return rows.norm(given["x"], layer, LAYOUT, shift_SD=shift, scale_SD=scale)

    def to_text(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        gate = given["vectors"].chunk(3, -1)[2]
        norm = given["norm"]
        return rows.add_norm(given["x"], given["branch"], norm, LAYOUT, gate_SD=gate)

    def to_mlp(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        shift, scale, _ = given["vectors"].chunk(3, -1)
        return rows.add_norm(
            given["x"], given["branch"], given["norm"], LAYOUT, shift_SD=shift, scale_SD=scale
        )

    def all_at_once(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        shift, scale, gate = given["vectors"].chunk(3, -1)
        return rows.add_norm(
            given["x"], given["branch"], given["norm"], LAYOUT,
            gate_SD=gate, shift_SD=shift, scale_SD=scale,
        )  # fmt: skip

    def close_block(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        gate = given["vectors"].chunk(3, -1)[2]
        return (rows.add(given["x"], given["branch"], given["bias"], LAYOUT, gate_SD=gate),)

    def query(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return (rows.rotate(given["x"], given["norm"], rotation, HEADS),)

    def text_key(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return (rows.rotate(given["x"], given["norm"], None, HEADS),)

    def project(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return rows.project(given["x"], linear(given["first"]), linear(given["second"]))

    def one_by_one(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        projected = rows.projector(given["x"])
        return projected(linear(given["first"])), projected(linear(given["second"]))

    def mlp(rows: Rowwise, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        up, down = linear(given["first"], given["bias"]), linear(given["second"])
        return tuple(rows.mlp(given["x"], up, down, keep=keep) for keep in (True, False))

    found = (open_block, to_text, to_mlp, all_at_once, close_block, query, text_key, project)
    return {case.__name__: case for case in (*found, one_by_one, mlp)}


def differentiated(case: Case, rows: Rowwise) -> dict[str, Tensor]:
    given = leaves()
    given["norm"] = rms(given["weight"])
    outputs = case(rows, given)
    weights = [torch.linspace(-1, 2, o.numel()).reshape(o.shape) for o in outputs]
    sum((w * o).sum() for w, o in zip(weights, outputs, strict=True)).backward()
    found = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    found |= {n: t.grad for n, t in given.items() if n != "norm" and t.grad is not None}
    if given["norm"].weight.grad is not None:
        found["norm"] = given["norm"].weight.grad
    return found


def check(name: str, case: Case, rows: Any, reference: Any) -> None:
    fused, plain = differentiated(case, rows), differentiated(case, reference)
    assert fused.keys() == plain.keys(), f"{name}: {fused.keys() ^ plain.keys()}"
    for part, expected in plain.items():
        torch.testing.assert_close(
            fused[part], expected, rtol=1e-4, atol=1e-4, msg=lambda m, p=part: f"{name} {p}: {m}"
        )


class Eight:
    """Products of 8-bit floats as they are defined, with the gradients of the exact ones."""

    def project(self, x_ND: Tensor, *linears: torch.nn.Linear) -> tuple[Tensor, ...]:
        return tuple(self._product(x_ND, each.weight) for each in linears)

    def projector(self, x_ND: Tensor) -> Callable[[torch.nn.Linear], Tensor]:
        return lambda linear: self._product(x_ND, linear.weight)

    def mlp(self, y_ND: Tensor, up: Any, down: Any, *, keep: bool) -> Tensor:
        row_NH = self._product(y_ND, up.weight) + up.bias
        hidden_NH = torch.nn.functional.gelu(row_NH, approximate="tanh")
        return self._product(hidden_NH, down.weight)

    def _product(self, x_ND: Tensor, weight_OD: Tensor) -> Tensor:
        exact_NO = x_ND @ weight_OD.T
        made_NO = self._rounded(x_ND) @ self._rounded(weight_OD).T
        return exact_NO + (made_NO - exact_NO).detach()

    def _rounded(self, x_ND: Tensor) -> Tensor:
        largest_N1 = x_ND.abs().amax(1, keepdim=True).clamp(min=1e-12)
        eight_ND = (x_ND * (448 / largest_N1)).to(torch.float8_e4m3fn)
        return eight_ND.float() * (largest_N1 / 448)


def check_model(text_lengths: tuple[int, ...]) -> None:
    """A whole model, and a pack with a segment of padding."""
    found = []
    for rows in (Fused(), PLAIN):
        model = random_model(CONFIG, torch.float32)
        use(model, rows)
        pack = samples(CONFIG, text_lengths=text_lengths)
        velocity_NP = packed(model, pack, multiple=16)
        velocity_NP.square().sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        found.append({"velocity": velocity_NP.detach(), **grads})
    for name, expected in found[1].items():
        error = (found[0][name] - expected).norm()
        assert error <= 1e-4 * expected.norm(), f"{name}: {error}"


def check_compiled() -> None:
    """Compiled blocks have the gradients of eager ones, for packs of any lengths."""
    torch.compile = partial(torch.compile, backend="aot_eager")  # inductor needs a compiler of C
    models = [random_model(CONFIG, torch.float32) for _ in range(2)]
    for model in models:
        use(model, Fused())
        for block in model.blocks:
            block.attention.attend = block.text_attention.attend = by_hand.attend
    compile_blocks(models[1].blocks)
    for lengths in ([9, 21, 6, 15], [14, 5, 22], [11]):
        layout = Layout.build([(1, 1, n) for n in lengths], [3 + n % 5 for n in lengths])
        x_NP = torch.randn(layout.tokens, CONFIG.token_width)
        given = torch.rand(len(lengths)), torch.randn(sum(layout.text_lengths), CONFIG.text_width)
        grads = []
        for model in models:
            model.zero_grad()
            model(x_NP, *given, layout).square().sum().backward()
            grads.append([p.grad for p in model.parameters()])
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def allow_loops_over_loaded_bounds() -> None:
    """The interpreter of Triton 3.6 takes int() of an array of one element, which numpy refuses."""
    patch: Any = interpreter._patch_lang_tensor

    def patch_more(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_more


def round_to_8_bits() -> None:
    """Its own rounding to 8 bits loses the carry into the exponent: 127 becomes 64, not 128."""
    convert: Any = interpreter._convert_float

    def rounded(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if not target.is_fp8e4nv():
            return convert(values, source, target, mode)
        floats = torch.from_numpy(values.astype("float32"))
        return floats.to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    interpreter._convert_float = rounded


if __name__ == "__main__":
    round_to_8_bits()
    allow_loops_over_loaded_bounds()
    for name, case in cases().items():
        check(name, case, Fused(), PLAIN)
    for name, of_mlp_alone in (("project", PLAIN), ("one_by_one", PLAIN), ("mlp", Eight())):
        check(f"{name} in 8 bits", cases()[name], Fused("fp8"), Eight())
        check(f"{name} beside 8 bits", cases()[name], Fused("fp8_mlp"), of_mlp_alone)
    for text_lengths in ((4, 1, 7), (0, 0, 0)):
        check_model(text_lengths)
    check_compiled()
    print("equal")
