"""Verify: whether every byte of a checkpoint is what was written. Streams.

A checkpoint without a fault is noted as verified: retention then spares the last such one.
"""

from collections.abc import Iterable
from contextlib import suppress

from goku.contract.manifest import NAME, verify
from goku.contract.rundir import RunDir
from goku.contract.store import StoreError
from goku_platform.runs.checkpoints.look import Checkpoint, look, nothing
from goku_platform.runs.checkpoints.watched import Tell


def chosen(run: RunDir, *, step: int | None = None, every: bool = False) -> tuple[Checkpoint, ...]:
    """What is to be verified: one step, every committed one, or the newest that was committed.

    Raises RunError if there is nothing of that.
    """
    committed = [one for one in run.steps() if run.checkpoint(one).exists(NAME)]
    steps = committed if every else committed[-1:]
    if step is not None:
        steps = [step] if step in run.steps() else []
    if not steps:
        raise nothing(run, step)
    return tuple(look(run, one) for one in steps)


def verified(
    run: RunDir, checkpoints: Iterable[Checkpoint], tell: Tell = lambda _: None
) -> tuple[Checkpoint, ...]:
    """The same checkpoints with all bytes read and compared: their problems are all there are."""
    return tuple(_read(run, checkpoint, tell) for checkpoint in checkpoints)


def _read(run: RunDir, checkpoint: Checkpoint, tell: Tell) -> Checkpoint:
    if checkpoint.nbytes is None:  # no manifest says what there should be
        return checkpoint
    manifest = run.manifest(checkpoint.step)
    problems = tuple(verify(run.checkpoint(manifest.step), manifest, progress=tell))
    if not problems:
        with suppress(StoreError, OSError):  # whoever may only read may still verify
            run.note_verified(manifest)
    return checkpoint.model_copy(update={"problems": problems})
