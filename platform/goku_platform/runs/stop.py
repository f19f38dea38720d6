"""Stop: ask a run to save and leave, and wait until it has."""

import time
from contextlib import suppress

from goku.contract.attempts import Ledger, Steps
from goku.contract.exits import Cause
from goku.contract.pod import Verdict
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.cluster.pauses import Pauses
from goku_platform.errors import RunError
from goku_platform.runs.existing import look, refuse_alive

_AGAIN_SECONDS = 3.0  # a controller may have made a pod while the others were being killed
_NOW_SECONDS = 60.0  # a kill is quick, but a busy node is slow to say so


def patience(run: RunDir, *, now: bool) -> float:
    """Seconds in which a run should be gone: its grace, or soon with `now`."""
    return _NOW_SECONDS if now else run.config().checkpoint.grace_seconds


def stop(
    run: RunDir, client: Client, *, now: bool = False, timeout_seconds: float | None = None
) -> None:
    """Return when nothing of the run lives; by default after its grace at the latest.

    Raises RunError if it is not alive here, or is not gone when the time is over. Without `now` it
    is never killed from here: the supervisor keeps the stop budget by itself.
    """
    seconds = patience(run, now=now) if timeout_seconds is None else timeout_seconds
    try:
        client.stop(run.uri, now=now)
    except RunError:
        if not (found := look(run, client)).alive_here:
            refuse_alive(found)  # it says where else the run is alive
        raise
    asked, deadline = time.monotonic(), time.monotonic() + seconds
    pauses = Pauses()
    while client.get(run.uri).alive:
        if now and time.monotonic() >= asked + _AGAIN_SECONDS:
            asked = time.monotonic()
            with suppress(RunError):  # it has ended meanwhile
                client.stop(run.uri, now=True)
        if time.monotonic() >= deadline:
            raise RunError(
                f"run {run.name!r}",
                f"it is still {'ending' if now else 'saving'} after {seconds:g} s",
                f"It has been asked; wait for it: goku-platform status {run.name} --watch.",
            )
        pauses.sleep(at_most=deadline - time.monotonic())
    _record(run, client, now=now)


def _record(run: RunDir, client: Client, *, now: bool) -> None:
    """Close the record of an attempt that was killed before it could: nobody else is left to."""
    ledger = Ledger(run)
    newest = ledger.last()
    if newest is None or newest.over or client.get(run.uri).alive is not False:
        return
    pulse = ledger.pulse(newest.number)
    progress, steps = pulse.progress if pulse else None, Steps()
    if progress:
        steps = Steps(first=progress.first_step, last=progress.step, durable=progress.durable_step)
    steps |= ledger.committed(newest.number)
    how = "stop --now" if now else "the end of its grace"
    verdict = Verdict(Cause.KILLED, f"{how} ended it before it could save")
    ledger.close(newest.ended(verdict, at=time.time(), steps=steps, progress=progress))
