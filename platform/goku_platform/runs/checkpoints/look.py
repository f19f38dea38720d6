"""What a run has kept: which of its checkpoints are complete, and which one a verb is about."""

from pydantic import BaseModel, ConfigDict

from goku.contract import promoted
from goku.contract.manifest import NAME, CorruptCheckpoint, Manifest, missing_files
from goku.contract.promoted import Promoted
from goku.contract.rundir import RunDir
from goku_platform.errors import RunError


class Checkpoint(BaseModel):
    """One folder under `checkpoints/`. Numbers are None if the manifest cannot be read."""

    model_config = ConfigDict(frozen=True)

    step: int
    problems: tuple[str, ...] = ()  # none: complete
    set_aside: bool = False  # an older step was promoted over it
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
    record = promoted.read(run.store)
    return tuple(look(run, step, record) for step in run.steps())


def look(run: RunDir, step: int, record: Promoted | None = None) -> Checkpoint:
    """One folder, as its manifest and the sizes of its files tell of it."""
    try:
        manifest = run.head(step)
    except FileNotFoundError:
        return Checkpoint(step=step, problems=(f"{NAME}: is missing: the save never ended",))
    except CorruptCheckpoint as error:
        return Checkpoint(step=step, problems=(str(error),))
    return Checkpoint(
        step=step,
        problems=tuple(missing_files(run.checkpoint(step), manifest)),
        set_aside=record is not None and record.voids(manifest),
        nbytes=manifest.nbytes,
        files=len(manifest.files),
        attempt=manifest.attempt,
        samples_seen=manifest.samples_seen,
        world_size=manifest.world_size,
        created_at=manifest.created_at,
    )


def complete(run: RunDir, step: int | None) -> Manifest:
    """The manifest of a complete checkpoint: of `step`, or of the latest.

    Raises RunError if there is none, CorruptCheckpoint if its files are not as it says.
    """
    if step is None:
        latest = run.latest()
        if latest is None:
            raise nothing(run, step)
        return latest
    manifest = committed(run, step)
    for problem in missing_files(run.checkpoint(step), manifest):
        raise CorruptCheckpoint(
            f"step {step}: {problem}. Choose another: goku-platform ckpt ls {run.name}."
        )
    return manifest


def committed(run: RunDir, step: int) -> Manifest:
    """The manifest of `step`. Raises RunError if it was never committed, CorruptCheckpoint."""
    try:
        return run.manifest(step)
    except FileNotFoundError:
        raise nothing(run, step) from None


def nothing(run: RunDir, step: int | None) -> RunError:
    """The error for a checkpoint that is not there."""
    which = "complete checkpoint" if step is None else f"checkpoint of step {step}"
    known = ", ".join(map(str, run.steps())) or "none"
    return RunError(f"run {run.name!r}", f"it has no {which}", f"Steps there are: {known}.")
