"""Prune: which checkpoints a rule keeps, and the removal of the others.

Whatever the rule, these stay: the latest, the target of LATEST, the one that a running attempt
began at, those that are pinned, and the only verified one. Without a latest one nothing that was
committed goes. What half a save left behind goes only where no attempt lives: it may be the save
that is being made.
"""

import json
import time
from collections.abc import Collection

from pydantic import BaseModel, ConfigDict

from goku.contract.attempts import Attempt, Ledger
from goku.contract.retention import Retention
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.runs.checkpoints.look import listing
from goku_platform.runs.existing import Existing, look, pulse_of

_SILENT_SECONDS = 900.0  # an attempt that shows no pulse for so long writes nothing any more


class Fate(BaseModel):
    """One checkpoint folder, and what becomes of it."""

    model_config = ConfigDict(frozen=True)

    step: int
    keep: bool
    why: str
    nbytes: int | None = None  # of a manifest that can be read


def plan(run: RunDir, client: Client, rule: Retention) -> tuple[Fate, ...]:
    """The fate of every checkpoint folder, oldest first. Changes nothing."""
    alive, needed = _alive(run, look(run, client)), _needed(run)
    doomed, latest, fates = run.doomed(rule, in_use=needed), run.newest(), []
    for one in listing(run):
        if one.step in needed:
            keep, why = True, needed[one.step]
        elif not one.complete:
            keep, why = alive, "incomplete, and the run is alive" if alive else "incomplete"
        elif one.set_aside:
            keep, why = latest is None, "set aside"
        else:
            keep = one.step not in doomed
            why = "kept by the rule" if keep else "not kept by the rule"
        fates.append(Fate(step=one.step, keep=keep, why=why, nbytes=one.nbytes))
    return tuple(fates)


def prune(run: RunDir, client: Client, rule: Retention, agreed: Collection[int]) -> tuple[int, ...]:
    """Remove the steps of `agreed` that the rule still gives up now. Returns them."""
    doomed = [fate.step for fate in plan(run, client, rule) if not fate.keep]
    gone = tuple(step for step in doomed if step in agreed)
    for step in gone:
        run.remove(step)
    return gone


def _needed(run: RunDir) -> dict[int, str]:
    """Steps that no rule may touch, each with the reason."""
    needed = {step: f"pinned by {', '.join(who)}" for step, who in run.pins().items()}
    if (pointed := _pointed(run)) is not None:
        needed[pointed] = "LATEST points at it"
    if (begun := _begun_at(run, Ledger(run).last())) is not None:
        needed[begun] = "the running attempt began at it"
    if (latest := run.newest()) is not None:
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
