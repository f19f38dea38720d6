"""Promote: go on from an older step. One record decides, and nothing is deleted.

The checkpoints after that step stay where they are and count no more, in the store as in a node's
own folder; promoting one of them brings it back, until training has passed it and retention takes
it away. See docs/decisions/0013.
"""

import time

from pydantic import BaseModel, ConfigDict

from goku.contract import promoted
from goku.contract.attempts import Ledger
from goku.contract.manifest import CorruptCheckpoint, Head, verify
from goku.contract.promoted import Promoted
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.errors import RunError
from goku_platform.runs.checkpoints.look import complete
from goku_platform.runs.checkpoints.watched import Tell
from goku_platform.runs.existing import look, refuse_alive


class Promotion(BaseModel):
    """What a promotion changes."""

    model_config = ConfigDict(frozen=True)

    step: int
    nbytes: int
    before: int | None  # the step that a resume would have gone on from
    set_aside: tuple[int, ...]  # complete ones that count no more


def plan(run: RunDir, client: Client, step: int) -> Promotion:
    """What promoting `step` would change. Changes nothing.

    Raises RunError if the run is alive or has no such checkpoint, CorruptCheckpoint.
    """
    refuse_alive(look(run, client))
    chosen, latest = complete(run, step), run.newest()
    record = _record(run, step)
    aside = [one.step for one in _committed(run) if record.voids(one)]
    return Promotion(
        step=step,
        nbytes=chosen.nbytes,
        before=latest.step if latest else None,
        set_aside=tuple(sorted(aside)),
    )


def promote(run: RunDir, client: Client, step: int, tell: Tell = lambda _: None) -> Promotion:
    """Read the whole checkpoint of `step`, and make it the one to go on from.

    Raises as `plan` does, CorruptCheckpoint for a byte that has changed, and RunError if an attempt
    began meanwhile.
    """
    planned = plan(run, client, step)
    for problem in verify(run.checkpoint(step), complete(run, step), progress=tell):
        raise CorruptCheckpoint(f"step {step}: {problem}. Promote another step.")
    record = _record(run, step)
    promoted.write(run.store, record)
    newest = Ledger(run).last()
    if newest and newest.number > record.attempt:
        raise RunError(
            f"run {run.name!r}",
            f"attempt {newest.number} began while step {step} was promoted",
            "Stop it and promote again.",
        )
    return planned


def _record(run: RunDir, step: int) -> Promoted:
    newest = Ledger(run).last()
    return Promoted(step=step, attempt=newest.number if newest else 0, at=time.time())


def _committed(run: RunDir) -> list[Head]:
    found = []
    for step in run.steps():
        try:
            found.append(run.head(step))
        except (FileNotFoundError, CorruptCheckpoint):
            continue
    return found
