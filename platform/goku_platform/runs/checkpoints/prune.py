"""Prune: which checkpoints a rule keeps, and the removal of the others.

Whatever the rule, these stay: the latest, the target of LATEST, and the one that a running attempt
began at. Without a latest one nothing that was committed goes. What half a save left behind goes
only where no attempt lives, for it may be the save that is being made.
"""

import json
import time
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from goku.contract.attempts import Attempt, Ledger
from goku.contract.manifest import NAME
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.runs.checkpoints.look import Checkpoint, listing
from goku_platform.runs.existing import Existing, look, pulse_of

_SILENT_SECONDS = 900.0  # an attempt that shows no pulse for so long writes nothing any more


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What to keep of the complete checkpoints."""

    keep_last: int
    keep_every: int | None = None  # steps that are multiples of it


class Fate(BaseModel):
    """One checkpoint folder, and what becomes of it."""

    model_config = ConfigDict(frozen=True)

    step: int
    keep: bool
    why: str
    nbytes: int | None = None  # of a manifest that can be read


def plan(run: RunDir, client: Client, rule: Rule) -> tuple[Fate, ...]:
    """The fate of every checkpoint folder, oldest first. Changes nothing."""
    found, needed = look(run, client), _needed(run)
    checkpoints = listing(run)
    counting = [one.step for one in checkpoints if one.complete and not one.set_aside]
    kept = {
        **({step: f"every {rule.keep_every}" for step in counting if step % rule.keep_every == 0}
           if rule.keep_every else {}),
        **dict.fromkeys(counting[-rule.keep_last :], f"one of the last {rule.keep_last}"),
        **needed,
    }  # fmt: skip
    silent = not _alive(run, found)
    return tuple(_fate(one, kept, silent=silent, latest=bool(counting)) for one in checkpoints)


def prune(run: RunDir, client: Client, rule: Rule, agreed: Collection[int]) -> tuple[int, ...]:
    """Remove the steps of `agreed` that the rule still gives up now. Returns them."""
    doomed = [fate.step for fate in plan(run, client, rule) if not fate.keep]
    gone = tuple(step for step in doomed if step in agreed)
    for step in gone:
        folder = run.checkpoint(step)
        folder.delete(NAME)  # first, so that what is left of a crash is no lie
        folder.delete("")
    return gone


def _fate(one: Checkpoint, kept: dict[int, str], *, silent: bool, latest: bool) -> Fate:
    if one.step in kept:
        keep, why = True, kept[one.step]
    elif not one.complete:
        keep, why = not silent, "incomplete" if silent else "incomplete, and the run is alive"
    elif not latest:
        keep, why = True, "set aside, and there is no other"
    else:
        keep, why = False, "set aside" if one.set_aside else "not kept by the rule"
    return Fate(step=one.step, keep=keep, why=why, nbytes=one.nbytes)


def _needed(run: RunDir) -> dict[int, str]:
    """Steps that no rule may touch, each with the reason."""
    needed = {}
    if (pointed := _pointed(run)) is not None:
        needed[pointed] = "LATEST points at it"
    if (begun := _begun_at(run, Ledger(run).last())) is not None:
        needed[begun] = "the running attempt began at it"
    if (latest := run.latest()) is not None:
        needed[latest.step] = "the latest"
    return needed


def _pointed(run: RunDir) -> int | None:
    try:
        return int(json.loads(run.store.read("LATEST"))["step"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # it is a hint
        return None


def _begun_at(run: RunDir, newest: Attempt | None) -> int | None:
    """The step that the newest attempt was restored from, as far as it has said so."""
    if newest is None or newest.over:
        return None
    pulse = pulse_of(run, newest)
    progress = pulse.progress if pulse else None
    return progress.first_step if progress else newest.first_step


def _alive(run: RunDir, found: Existing) -> bool:
    """Whether anything may still be saving; in doubt, yes."""
    if found.alive_here or found.elsewhere:
        return True
    newest = found.newest
    if newest is None or newest.over:
        return False
    if found.seen and found.seen.alive is False and found.seen.place:
        return False  # the target knows this job, and that it is dead
    pulse = pulse_of(run, newest)
    return time.time() - max(pulse.at if pulse else 0.0, newest.started_at) < _SILENT_SECONDS
