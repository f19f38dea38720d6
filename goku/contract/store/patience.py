"""Waiting for a store that is away, where nothing better can be done than to wait."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from goku.contract.store.errors import StoreUnavailable

Result = TypeVar("Result")

_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 15.0  # between two tries


def patiently(work: Callable[[], Result], *, seconds: float) -> Result:
    """The result of `work`, tried again for `seconds` while the store is away. Any thread.

    Raises the last StoreUnavailable when the time is spent, and at once whatever else it raises.
    """
    deadline, pause = time.monotonic() + seconds, _FIRST_SECONDS
    while True:
        try:
            return work()
        except StoreUnavailable:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))  # or all ranks would come back at once
        pause = min(2 * pause, _LONGEST_SECONDS)
