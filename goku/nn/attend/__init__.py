"""Attention within the segments of a pack, by several kernels behind one signature.

`attend(q_NAK, k_NAK, v_NAK, q_spans, k_spans)` gives o_NAK: each query mixes the values of its own
segment. A segment without keys gives zeros. `goku.nn.attend.choose` says which kernel to use.
"""

from goku.nn.attend.native import attend
from goku.nn.attend.ops import Attend, Send

__all__ = ["Attend", "Send", "attend"]
