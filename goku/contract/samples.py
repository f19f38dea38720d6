"""`metrics/attempt-0001-samples.json`: the set of samples that an attempt trains on.

Rank 0 writes it as an attempt begins, for those that go on from its checkpoints and for `status`.
Only warnings depend on it: a record that is missing or damaged counts as none.
"""

from pydantic import BaseModel, ConfigDict

from goku.contract.rundir import samples_file
from goku.contract.store import Store


class Seen(BaseModel):
    """What was read: how many samples, and a digest of them in their order."""

    model_config = ConfigDict(frozen=True)

    samples: int
    digest: str


def read(store: Store, attempt: int) -> Seen | None:
    """What an attempt read. None if it left no record, or one that cannot be read."""
    try:
        return Seen.model_validate_json(store.read(samples_file(attempt)))
    except (OSError, ValueError):
        return None
