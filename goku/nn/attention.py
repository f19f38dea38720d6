"""Self- and cross-attention over packed samples (paper section 2.2).

Queries and keys pass an RMSNorm over the FULL width, before the split into heads. Two surprises
of the published block are kept: cross-attention turns its query by RoPE but not its key, and it
reads the raw text features. `SelfAttention.attend` may be replaced on a finished model: that is
where sequence parallelism enters, and why attention is asked for by the whole pack's lengths.
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from goku.nn.layout import Layout
from goku.nn.norm import RMSNorm
from goku.nn.rope import Rotation

Attend = Callable[[Tensor, Tensor, Tensor, Sequence[int], Sequence[int]], Tensor]


def attend(
    q_NAK: Tensor,
    k_NAK: Tensor,
    v_NAK: Tensor,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
) -> Tensor:
    """Softmax attention within each segment: o_NAK for N queries over the segment's own keys.

    A segment without keys gives zeros. The tokens must be the segments' tokens, in order.
    """
    segments = zip(
        torch.split(q_NAK, list(q_lengths)),
        torch.split(k_NAK, list(k_lengths)),
        torch.split(v_NAK, list(k_lengths)),
        strict=True,
    )
    return torch.cat([_attend_segment(q, k, v) for q, k, v in segments if len(q)])


def _attend_segment(q_NAK: Tensor, k_NAK: Tensor, v_NAK: Tensor) -> Tensor:
    q_1ANK, k_1ANK, v_1ANK = (x_NAK.transpose(0, 1)[None] for x_NAK in (q_NAK, k_NAK, v_NAK))
    if len(k_NAK):
        o_1ANK = scaled_dot_product_attention(q_1ANK, k_1ANK, v_1ANK)
    else:  # a sum over nothing: zeros, yet every weight still gets a gradient on every rank
        o_1ANK = q_1ANK @ k_1ANK.mT @ v_1ANK
    return o_1ANK[0].transpose(0, 1)


class SelfAttention(nn.Module):
    """Full attention over all tokens of a sample, in space and time at once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(width)
        self.key_norm = RMSNorm(width)
        self.attend: Attend = attend

    def forward(self, x_ND: Tensor, layout: Layout, rotation: Rotation) -> Tensor:
        """Mix the tokens of each segment: [N, D] to [N, D]."""
        q_NAK = rotation(_split(self.query_norm(self.query(x_ND)), self.heads))
        k_NAK = rotation(_split(self.key_norm(self.key(x_ND)), self.heads))
        v_NAK = _split(self.value(x_ND), self.heads)
        lengths = layout.full_lengths
        o_NAK = self.attend(q_NAK, k_NAK, v_NAK, lengths, lengths)
        out_ND: Tensor = self.out(o_NAK.flatten(1))
        return out_ND


class CrossAttention(nn.Module):
    """Each token reads the text of its own sample. Text is short: every rank holds all of it."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(text_width, width, bias=False)
        self.value = nn.Linear(text_width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(width)
        self.key_norm = RMSNorm(width)

    def forward(self, x_ND: Tensor, text_MY: Tensor, layout: Layout, rotation: Rotation) -> Tensor:
        """Read the text into the tokens: [N, D] and [M, Y] to [N, D]."""
        q_NAK = rotation(_split(self.query_norm(self.query(x_ND)), self.heads))
        k_MAK = _split(self.key_norm(self.key(text_MY)), self.heads)
        v_MAK = _split(self.value(text_MY), self.heads)
        o_NAK = attend(q_NAK, k_MAK, v_MAK, layout.lengths, layout.text_lengths)
        out_ND: Tensor = self.out(o_NAK.flatten(1))
        return out_ND


def _split(x_ND: Tensor, heads: int) -> Tensor:
    return rearrange(x_ND, "n (a k) -> n a k", a=heads)
