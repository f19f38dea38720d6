"""flash-attention 3, through PyTorch's switch for it.

Importing this module raises ImportError where `flash_attn_interface` is not installed. The switch
is for the whole process: from then on PyTorch's flash attention, and so `fa2`, is version 3.
"""

import flash_attn_interface  # noqa: F401  # the switch would find out late that it is not there
from torch.nn.attention import activate_flash_attention_impl

from goku.nn.attend import fa2
from goku.nn.attend.ops import operator

activate_flash_attention_impl("FA3")
attend = operator("fa3", fa2.forward, fa2.backward)
