"""Calls to a store that must not hold up the end of a pod: given a time, then left behind."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T | None:
    """What `call` returns, or None if it takes longer; it then goes on in its thread."""
    results: list[T] = []
    # A daemon: a store that hangs must not keep the pod from ending.
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
