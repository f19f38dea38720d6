"""Self- and cross-attention over packed samples (paper section 2.2).

Queries and keys pass an RMSNorm over the FULL width, before the split into heads. Two surprises
of the published block are kept: cross-attention turns its query by RoPE but not its key, and it
reads the raw text features. `attend` may be replaced on a finished model: that is where a GPU's
kernels and, in self-attention, sequence parallelism enter; it is asked by the whole pack's spans.
With a `send` beside it, it is called with what that made of queries, keys and values.
"""

from einops import rearrange
from torch import Tensor, nn

from goku.nn.attend import Attend, Send, attend
from goku.nn.layout import Layout
from goku.nn.norm import RMSNorm
from goku.nn.rope import Rotation
from goku.nn.rowwise import PLAIN, Rowwise
from goku.nn.spans import Spans


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
        self.send: Send | None = None
        self.rowwise: Rowwise = PLAIN

    def forward(self, x_ND: Tensor, layout: Layout, rotation: Rotation) -> Tensor:
        """Mix the tokens of each segment: [N, D] to [N, D]."""
        spans, send = layout.full_spans, self.send
        if send is None:
            made = self._made(x_ND, rotation)
        else:
            made = self._sent(x_ND, spans, rotation, send)
        o_NAK = self.attend(*made, layout.query_spans, spans)
        (out_ND,) = self.rowwise.project(o_NAK.flatten(1), self.out)
        return out_ND

    def _made(self, x_ND: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, whose products may be fused."""
        rows, heads = self.rowwise, self.heads
        q_ND, k_ND, v_ND = rows.project(x_ND, self.query, self.key, self.value)
        q_NAK = rows.rotate(q_ND, self.query_norm, rotation, heads)
        k_NAK = rows.rotate(k_ND, self.key_norm, rotation, heads)
        return q_NAK, k_NAK, rearrange(v_ND, "n (a k) -> n a k", a=heads)

    def _sent(
        self, x_ND: Tensor, spans: Spans, rotation: Rotation, send: Send
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `send` made of each as soon as it was there; values first, which nothing turns."""
        rows, heads = self.rowwise, self.heads
        project = rows.projector(x_ND)
        v_NAK = send(rearrange(project(self.value), "n (a k) -> n a k", a=heads), spans, keys=True)
        k_NAK = rows.rotate(project(self.key), self.key_norm, rotation, heads)
        k_NAK = send(k_NAK, spans, keys=True)
        q_NAK = rows.rotate(project(self.query), self.query_norm, rotation, heads)
        return send(q_NAK, spans, keys=False), k_NAK, v_NAK


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
        self.attend: Attend = attend
        self.rowwise: Rowwise = PLAIN

    def forward(self, x_ND: Tensor, text_MY: Tensor, layout: Layout, rotation: Rotation) -> Tensor:
        """Read the text into the tokens: [N, D] and [M, Y] to [N, D]."""
        rows, heads = self.rowwise, self.heads
        (q_ND,) = rows.project(x_ND, self.query)
        k_MD, v_MD = rows.project(text_MY, self.key, self.value)
        q_NAK = rows.rotate(q_ND, self.query_norm, rotation, heads)
        k_MAK = rows.rotate(k_MD, self.key_norm, None, heads)
        v_MAK = rearrange(v_MD, "m (a k) -> m a k", a=heads)
        o_NAK = self.attend(q_NAK, k_MAK, v_MAK, layout.spans, layout.text_spans)
        (out_ND,) = rows.project(o_NAK.flatten(1), self.out)
        return out_ND
