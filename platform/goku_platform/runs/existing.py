"""What there is already under a run's name: in the store, on the target, or alive somewhere else.

A target sees only its own jobs. A run that was started from another machine, by another user of
this one, or in another cluster or namespace, shows itself in the store: its newest attempt is open,
and its pulse is fresh.
"""

import time
from dataclasses import dataclass, replace

from goku.contract import promoted
from goku.contract.attempts import Attempt, Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client, Sighting
from goku_platform.errors import RunError

_FRESH_SECONDS = 30.0  # six pulses: clocks may differ by some seconds, and a store may be slow
_STOP_IT = "Stop it where it was started, as the user who started it"


@dataclass(frozen=True, kw_only=True)
class Existing:
    """What was found. A run that is nowhere is not `there` and not alive."""

    name: str
    there: bool  # its configuration is frozen in the store
    newest: Attempt | None = None
    pulse: Pulse | None = None  # of the newest attempt, while it is open
    durable_step: int | None = None
    done: bool = False  # and no older step has been promoted since
    seen: Sighting | None = None  # None: the target was not asked
    elsewhere: str = ""  # the hosts it is alive on, where the target does not see it

    def as_seen(self, seen: Sighting | None) -> "Existing":
        """The same, with what the target knows of it."""
        hosts = elsewhere(self.newest, self.pulse, seen)
        return replace(self, seen=seen, elsewhere=hosts)

    @property
    def way_on(self) -> str:
        """What to do instead of a launch that finds the name taken."""
        other = "or launch under another --name."
        if self.done:
            return f"It is done. Add --force to do what is new since (footage, clips), {other}"
        return f"Continue it: goku-platform resume {self.name}, {other}"

    @property
    def alive_here(self) -> bool:
        return bool(self.seen and self.seen.alive)

    def __str__(self) -> str:
        if not self.there:
            return (
                f"{self.seen.place} without a run" if self.seen and self.alive_here else "nothing"
            )
        durable = "nothing durable" if self.durable_step is None else f"step {self.durable_step}"
        attempt = (
            f"attempt {self.newest.number} {self.newest.cause}" if self.newest else "no attempt"
        )
        where = f", alive on {self.elsewhere}" if self.elsewhere else ""
        if self.seen and self.alive_here:
            where = f", alive as {self.seen.place or 'a job'}"
        return f"{attempt}, {durable}{where}"


def look(run: RunDir, client: Client | None) -> Existing:
    """Look without changing anything. Raises StoreError, and with a client TargetError."""
    seen = client.get(run.uri) if client else None
    return stored(run).as_seen(seen)


def stored(run: RunDir) -> Existing:
    """What the store has of a run, before any target was asked. Raises StoreError."""
    if not run.exists():
        return Existing(name=run.name, there=False)
    newest, latest = Ledger(run).last(), run.newest()
    return Existing(
        name=run.name,
        there=True,
        newest=newest,
        pulse=pulse_of(run, newest),
        durable_step=latest.step if latest else None,
        done=newest is not None and newest.cause is Cause.DONE and not _reopened(run, newest),
    )


def _reopened(run: RunDir, newest: Attempt) -> bool:
    """Whether a person has promoted a step before the last of this attempt."""
    aside, last = promoted.read(run.store), newest.last_step or 0
    return aside is not None and aside.attempt >= newest.number and aside.step < last


def refuse_alive(found: Existing, *, verb: str | None = None, force: bool = False) -> None:
    """Raise RunError if the run lives; with `force`, only if the target itself sees it live.

    `verb` takes over with --force; None for one that cannot.
    """
    name = found.name
    if found.alive_here:
        raise RunError(
            f"run {name!r}",
            "it is running",
            f"Watch it: goku-platform status {name}. End it: goku-platform stop {name}.",
        )
    if found.elsewhere and not force:
        raise RunError(
            f"run {name!r}",
            f"it is alive on {found.elsewhere}, which this target does not see",
            f"{_STOP_IT}."
            if verb is None
            else f"{_STOP_IT}, or take over: goku-platform {verb} --force. Only one attempt can "
            "commit then, the new one; the other ends as superseded.",
        )


def elsewhere(newest: Attempt | None, pulse: Pulse | None, seen: Sighting | None) -> str:
    """The hosts that a run is alive on, if it is and the target does not see it; else ""."""
    if newest is None or newest.over or pulse is None:
        return ""
    if seen and (seen.alive or (seen.alive is False and seen.place)):
        return ""  # the target knows this run, and so knows best
    if time.time() - pulse.at > _FRESH_SECONDS:
        return ""
    return ", ".join(pulse.hosts[:3]) + (", ..." if len(pulse.hosts) > 3 else "")


def pulse_of(run: RunDir, newest: Attempt | None) -> Pulse | None:
    """The pulse of an attempt that is open."""
    return None if newest is None or newest.over else Ledger(run).pulse(newest.number)
