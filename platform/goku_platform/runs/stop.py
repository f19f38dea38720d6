"""Stop: ask a run to save and leave, and wait until it has."""

import time

from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.errors import RunError

_POLL_SECONDS = 0.2


def stop(run: RunDir, client: Client, *, timeout_seconds: float | None = None) -> None:
    """Return when nothing of the run lives; by default after its grace at the latest.

    Raises RunError if it is not alive, or is still saving when the time is over. It is never
    killed from here: the supervisor keeps the stop budget by itself.
    """
    patience = run.config().checkpoint.grace_seconds if timeout_seconds is None else timeout_seconds
    client.stop(run.uri)
    deadline = time.monotonic() + patience
    while client.get(run.uri).alive:
        if time.monotonic() >= deadline:
            raise RunError(
                f"run {run.name!r}",
                f"it is still saving after {patience:g} s",
                f"Wait for it: goku-platform stop {run.name} --timeout 600.",
            )
        time.sleep(_POLL_SECONDS)
