"""The plain baseline: the same model, trained as one would without this platform.

Eager blocks of PyTorch's own operations, the attention that PyTorch takes by itself, whole blocks
computed again or none, and micro-batches of samples of one length instead of a pack: there neither
a mask nor an index is needed, so [N, D] is read as [S, L, D].
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from goku.config.memory import Policy
from goku.config.model import ModelConfig
from goku.nn.layout import Layout
from goku.nn.rowwise import Norm, Plain, use
from goku.nn.spans import Spans
from goku.parallel.recompute import recompute

Keep = Literal["none", "full"]

# rows of D that eager autograd remembers of a token and of a text token in each block, and rows on
# their way while one block goes backward, some of them fp32
_ROWS, _HIDDEN, _TEXT, _PASSING = 19, 2, 3, 20


class Batched(Plain):
    """Plain rows of S samples of one length.

    The vectors are spread over a sample's tokens by broadcasting, in the tokens' dtype, as DiT's
    published code does: `Plain` gathers them in fp32, which a pack needs and a batch does not.
    """

    def norm(
        self,
        x_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rowwise.norm."""
        y_ND: Tensor = norm(x_ND)
        if shift_SD is not None and scale_SD is not None:
            y_SLD = _by_sample(y_ND, layout)
            y_ND = (y_SLD * (1 + scale_SD[:, None]) + shift_SD[:, None]).flatten(0, 1)
        return x_ND, y_ND

    def add_norm(
        self,
        x_ND: Tensor,
        branch_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        gate_SD: Tensor | None = None,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rowwise.add_norm."""
        if gate_SD is not None:
            branch_ND = _gated(branch_ND, gate_SD, layout)
        return self.norm(x_ND + branch_ND, norm, layout, shift_SD=shift_SD, scale_SD=scale_SD)

    def add(
        self, x_ND: Tensor, branch_ND: Tensor, bias_D: Tensor, layout: Layout, *, gate_SD: Tensor
    ) -> Tensor:
        """Rowwise.add."""
        return x_ND + _gated(branch_ND + bias_D, gate_SD, layout)

    def mlp(self, y_ND: Tensor, up: nn.Linear, down: nn.Linear, *, keep: bool) -> Tensor:  # noqa: ARG002  # autograd keeps them
        """Rowwise.mlp, the first bias inside its product."""
        return linear(gelu(up(y_ND), approximate="tanh"), down.weight)


def _gated(branch_ND: Tensor, gate_SD: Tensor, layout: Layout) -> Tensor:
    return (_by_sample(branch_ND, layout) * gate_SD[:, None]).flatten(0, 1)


def _by_sample(x_ND: Tensor, layout: Layout) -> Tensor:
    return rearrange(x_ND, "(s l) d -> s l d", s=layout.segments)


def attend(q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor, q_spans: Spans, _k_spans: Spans) -> Tensor:
    """o_NAK of samples of one length and texts of one length: a batch, for which SDPA chooses."""
    samples = len(q_spans.host) - 1
    q, k, v = (rearrange(x, "(s n) a k -> s a n k", s=samples) for x in (q_NAK, k_NAK, v_NAK))
    return rearrange(scaled_dot_product_attention(q, k, v), "s a n k -> (s n) a k")


def make_plain(model: nn.Module, keep: Keep) -> None:
    """Give a model, before an engine has it, plain parts; "full" computes blocks again."""
    use(model, Batched())
    blocks = list(model.get_submodule("blocks").children())
    for block in blocks:
        for name in ("attention", "text_attention"):
            block.get_submodule(name).attend = attend  # type: ignore[assignment]  # no module
    recompute(blocks, Policy(keep))


def chosen(model: ModelConfig, length: int, device: torch.device, dtype: torch.dtype) -> str:
    """What SDPA takes for samples of this length: FLASH_ATTENTION, CUDNN_ATTENTION, ..."""
    size = (1, model.heads, length, model.head_width)
    q = torch.empty(size, device=device, dtype=dtype, requires_grad=True)
    return SDPBackend(torch._fused_sdp_choice(q, q, q)).name


def sample_bytes(
    model: ModelConfig, tokens: int, text_tokens: int, keep: Keep, itemsize: int = 2
) -> int:
    """What a forward remembers of one sample, and what one block's backward adds to it.

    Counted as `goku.config.memory.activation_bytes` counts; gelu's input and output are kept.
    """
    whole = _ROWS * model.width + _HIDDEN * model.mlp_width
    kept, again = (whole, 0) if keep == "none" else (model.width, whole)
    text_blocks = model.layers if keep == "none" else 1
    values = tokens * (model.layers * kept + again + _PASSING * model.width)
    values += text_tokens * _TEXT * text_blocks * model.width
    return values * itemsize


def micro_batches(lengths: Sequence[int], at_once: Mapping[int, int]) -> list[list[int]]:
    """The numbers of the samples of each micro-batch, in as few and as even ones as fit.

    All of a batch have one length, of which `at_once` says how many fit; none where one has no
    place at all.
    """
    batches = []
    for length in dict.fromkeys(lengths):
        if at_once[length] < 1:
            return []
        numbers = [number for number, other in enumerate(lengths) if other == length]
        count = -(-len(numbers) // at_once[length])
        cuts = [len(numbers) * part // count for part in range(count + 1)]
        batches += [numbers[begin:end] for begin, end in pairwise(cuts)]
    return batches
