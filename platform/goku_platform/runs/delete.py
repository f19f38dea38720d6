"""Delete: what the target keeps of a run that is over, and only when told so, what the store has.

The order in the store is such that an interrupted deletion leaves no lie: a checkpoint loses its
manifest first, and a run its configuration last, so that deleting again finishes the work.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from goku.contract import promoted
from goku.contract.manifest import NAME
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku_platform.cluster.client import Client
from goku_platform.runs.at_once import at_once
from goku_platform.runs.existing import look, refuse_alive

_CHECKPOINTS, _PINS, _LATEST, _RUN = "checkpoints", "pins", "LATEST", "run.json"


class Part(StrEnum):
    """How much of the store goes."""

    NOTHING = "nothing"
    CHECKPOINTS = "checkpoints"
    ALL = "all"


class Doomed(BaseModel):
    """One folder of the run, and what would go with it."""

    model_config = ConfigDict(frozen=True)

    name: str  # below the run: checkpoints, logs, run.json
    files: int
    nbytes: int


def doomed(run: RunDir, client: Client, part: Part) -> tuple[Doomed, ...]:
    """What `delete` would remove from the store. Raises RunError if the run is alive anywhere."""
    refuse_alive(look(run, client))
    if part is Part.NOTHING:
        return ()
    names = [name for name in run.store.walk() if part is Part.ALL or _is_state(name)]
    sizes = at_once(run.store.size, names)
    folders: dict[str, list[int]] = {}
    for name, size in zip(names, sizes, strict=True):
        folders.setdefault(name.partition("/")[0], []).append(size or 0)
    return tuple(
        Doomed(name=name, files=len(of), nbytes=sum(of)) for name, of in sorted(folders.items())
    )


def delete(run: RunDir, client: Client, part: Part) -> None:
    """Remove the job, and of the run what `part` says. Raises RunError if it is alive anywhere."""
    refuse_alive(look(run, client))
    client.delete(run.uri)
    if part is Part.NOTHING:
        return
    for step in run.steps():
        run.checkpoint(step).delete(NAME)
    run.store.delete(_LATEST)
    run.store.delete(promoted.NAME)
    run.store.delete(_PINS)
    run.store.delete(_CHECKPOINTS)
    if part is Part.ALL:
        _delete_all(run)


def _delete_all(run: RunDir) -> None:
    for name in run.store.list():
        if name != _RUN:
            run.store.delete(name)
    run.store.delete(_RUN)
    parent, _, name = run.uri.rstrip("/").rpartition("/")
    Store(parent).delete(name)  # a folder that is left empty, where the store has folders


def _is_state(name: str) -> bool:
    return name in (_LATEST, promoted.NAME) or name.startswith((f"{_CHECKPOINTS}/", f"{_PINS}/"))
