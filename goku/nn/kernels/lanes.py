"""How wide a program is that holds whole rows."""

import triton

_COLUMNS_OF_A_WARP = 512  # of a row, 16 for each thread; two rows at once still fit its registers


def lanes(width: int) -> tuple[int, int]:
    """Columns of a program, the next power of two, and its warps."""
    block = triton.next_power_of_2(width)
    return block, min(max(block // _COLUMNS_OF_A_WARP, 1), 16)
