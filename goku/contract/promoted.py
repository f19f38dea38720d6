"""`promoted`: a person's word that the run goes on from an older step.

The record sets aside what attempts up to `attempt` saved after `step`. Nothing is deleted, one
write decides, and what a zombie of those attempts commits later is set aside with the rest; the
checkpoints of the next attempt count again. Every tier asks it before it calls a step the latest.
"""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from goku.contract.manifest import CorruptCheckpoint, Head
from goku.contract.store import Store

NAME = "promoted"


class Promoted(BaseModel):
    """The step to go on from, and the newest attempt at the time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)
    attempt: int = Field(ge=0)
    at: float  # unix seconds

    def voids(self, manifest: Head) -> bool:
        """Whether this checkpoint is one of those that were set aside."""
        return manifest.step > self.step and manifest.attempt <= self.attempt


def read(store: Store) -> Promoted | None:
    """The record in a run's folder; None if nobody promoted a step. Raises CorruptCheckpoint."""
    try:
        return Promoted.model_validate_json(store.read(NAME))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise CorruptCheckpoint(
            f"{store.uri}/{NAME}: its bytes have changed. Delete it, and promote a step again: "
            "goku-platform ckpt promote."
        ) from None


def write(store: Store, record: Promoted) -> None:
    """Put `record` in the place of an earlier one, whatever that said."""
    store.change(NAME, lambda _: record.model_dump_json().encode())
