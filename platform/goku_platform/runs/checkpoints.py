"""Checkpoints: what a run has kept, and whether every byte of it is what was written."""

from pydantic import BaseModel, ConfigDict

from goku.contract.manifest import NAME, CorruptCheckpoint, missing_files, verify
from goku.contract.rundir import RunDir
from goku_platform.errors import RunError


class Checkpoint(BaseModel):
    """One folder under `checkpoints/`. Numbers are None if the manifest cannot be read."""

    model_config = ConfigDict(frozen=True)

    step: int
    problems: tuple[str, ...] = ()  # none: complete
    nbytes: int | None = None
    files: int | None = None
    attempt: int | None = None
    samples_seen: int | None = None
    world_size: int | None = None
    created_at: float | None = None  # unix seconds

    @property
    def complete(self) -> bool:
        return not self.problems


def listing(run: RunDir) -> tuple[Checkpoint, ...]:
    """Every checkpoint folder, oldest first; sizes are compared, bytes are not read."""
    return tuple(_look(run, step, read=False) for step in run.steps())


def verified(
    run: RunDir, *, step: int | None = None, every: bool = False
) -> tuple[Checkpoint, ...]:
    """Checkpoints with all bytes read and compared: one step, every one, or the newest committed.

    Raises RunError if there is nothing to verify.
    """
    committed = [s for s in run.steps() if run.checkpoint(s).exists(NAME)]
    chosen = committed if every else committed[-1:]
    if step is not None:
        chosen = [step] if step in run.steps() else []
    if not chosen:
        known = ", ".join(map(str, run.steps())) or "none"
        which = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise RunError(f"run {run.name!r}", f"it has no {which}", f"Steps there are: {known}.")
    return tuple(_look(run, one, read=True) for one in chosen)


def _look(run: RunDir, step: int, *, read: bool) -> Checkpoint:
    try:
        manifest = run.manifest(step)
    except FileNotFoundError:
        return Checkpoint(step=step, problems=(f"{NAME}: is missing: the save never ended",))
    except CorruptCheckpoint as error:
        return Checkpoint(step=step, problems=(str(error),))
    examine = verify if read else missing_files
    return Checkpoint(
        step=step,
        problems=tuple(examine(run.checkpoint(step), manifest)),
        nbytes=manifest.nbytes,
        files=len(manifest.files),
        attempt=manifest.attempt,
        samples_seen=manifest.samples_seen,
        world_size=manifest.world_size,
        created_at=manifest.created_at,
    )
