"""The rectified-flow loss of each sample in a pack, in parts that add up over sequence ranks."""

import torch
from torch import Tensor

from goku.nn.layout import Layout
from goku.nn.norm import at_least_fp32


def sample_losses(v_NP: Tensor, target_NP: Tensor, layout: Layout) -> Tensor:
    """Mean squared error of each segment, loss_S in at least fp32.

    The tokens held here are summed and divided by the segment's length in the whole pack, so the
    ranks of a sequence group each give a part and the parts sum to the mean. An empty segment
    gives 0. A padding segment gives a loss like any other: the caller drops it.
    """
    wide = at_least_fp32(v_NP.dtype)
    error_N = (v_NP.to(wide) - target_NP.to(wide)).square().mean(dim=-1)
    sum_S = torch.stack([part.sum() for part in torch.split(error_N, list(layout.lengths))])
    full_S = layout.full_spans.starts.diff().to(wide)  # on the device already
    return sum_S / full_S.clamp(min=1)
