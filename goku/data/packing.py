"""Which samples share a packed sequence: consecutive ones, until the next would not fit.

The same on every rank, from lengths alone: no sample is decoded to plan a step.
"""

from collections.abc import Callable

Pack = tuple[int, ...]  # ordinals of the stream, consecutive


def plan(
    lengths_of: Callable[[int], int], cursor: int, *, packs: int, budget: int
) -> tuple[tuple[Pack, ...], int]:
    """The next `packs` packs from the ordinal `cursor` on, and the ordinal after them.

    `lengths_of` gives the tokens of an ordinal's sample. Raises ValueError for a sample longer
    than the budget.
    """
    planned = []
    for _ in range(packs):
        pack = _fill(lengths_of, cursor, budget)
        planned.append(pack)
        cursor += len(pack)
    return tuple(planned), cursor


def _fill(lengths_of: Callable[[int], int], cursor: int, budget: int) -> Pack:
    end, used = cursor, lengths_of(cursor)
    if used > budget:
        raise ValueError(f"sample {cursor} has {used} tokens, a pack holds {budget}")
    while used <= budget:
        end += 1
        used += lengths_of(end)
    return tuple(range(cursor, end))
