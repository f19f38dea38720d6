"""Carries small files to the store from a thread, so that training never waits for them.

Only the newest version of a name is worth writing: while the store is slow or away nothing piles
up, and when it is back it gets the whole of what it missed.
"""

import threading
import time

from goku.contract.store import Store

_PAUSE_SECONDS = 5.0  # after a failure; on top of the store's own retries


class Courier:
    """Writes to one store, in the order in which names were first sent."""

    def __init__(self, store: Store, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._store, self._pause_seconds = store, pause_seconds
        self._waiting: dict[str, bytes] = {}
        self._underway = self._warned = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def send(self, name: str, data: bytes) -> None:
        """Write `name` soon, in place of a version that still waits."""
        with self._changed:
            self._waiting[name] = data
            self._changed.notify_all()
            if self._thread is None:
                # A daemon: a store that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._carry, name="courier", daemon=True)
                self._thread.start()

    def drain(self, *, seconds: float) -> bool:
        """Wait until nothing is left to carry, `seconds` at most; whether that came about."""
        with self._changed:
            return self._changed.wait_for(self._idle, seconds)

    def _idle(self) -> bool:
        return not self._waiting and not self._underway

    def _carry(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                name = next(iter(self._waiting))
                data, self._underway = self._waiting.pop(name), True
            over = self._deliver(name, data)
            with self._changed:
                self._underway = False
                if not over:
                    self._waiting.setdefault(name, data)
                self._changed.notify_all()
            if not over:
                time.sleep(self._pause_seconds)

    def _deliver(self, name: str, data: bytes) -> bool:
        """Write once; False if it is worth another try. What is refused for good is dropped."""
        try:
            self._store.write(name, data)
        except Exception as error:  # every driver has exceptions of its own
            self._warn(error)
            return not isinstance(error, OSError)
        self._warned = False
        return True

    def _warn(self, error: Exception) -> None:
        """Once for each time that the store is away."""
        if not self._warned:
            self._warned = True
            print(f"warning: metrics are not written ({error}); training goes on", flush=True)
