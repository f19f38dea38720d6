"""What a run has drawn: the files in `samples/`, and in `samples.json` from which weights.

An attempt that goes on leaves out what is drawn. `sampling.step` left open takes the latest
checkpoint, which may be a later one by then: from other weights, or by other code, all are drawn
again.
"""

from pydantic import BaseModel, ConfigDict, ValidationError

from goku.contract.rundir import SAMPLES
from goku.contract.store import Store, patiently

_NAME = "samples.json"
_STORE_AWAY_SECONDS = 300.0  # a sample may have cost minutes; within a step's budget of silence


class Maker(BaseModel):
    """What pixels depend on besides the frozen configuration. `weights` is an Origin's digest."""

    model_config = ConfigDict(frozen=True)

    weights: str
    code_version: str


class _Record(BaseModel):
    """samples.json."""

    maker: Maker
    names: tuple[str, ...]


class Drawn:
    """The samples of one maker that a run has. Raises StoreError."""

    def __init__(self, store: Store, maker: Maker) -> None:
        self._store, self._maker = store, maker
        record = _read(store)
        noted = record.names if record and record.maker == maker else ()
        self.names = set(noted).intersection(store.list(SAMPLES))

    def add(self, name: str, data: bytes) -> None:
        """Keep one, and then say so: what breaks off between the two is drawn again."""
        self.names.add(name)
        record = _Record(maker=self._maker, names=tuple(sorted(self.names)))
        self._write(f"{SAMPLES}/{name}", data)
        self._write(_NAME, record.model_dump_json(indent=2).encode())

    def _write(self, name: str, data: bytes) -> None:
        patiently(lambda: self._store.write(name, data), seconds=_STORE_AWAY_SECONDS)


def _read(store: Store) -> _Record | None:
    try:
        return _Record.model_validate_json(store.read(_NAME))
    except (FileNotFoundError, ValidationError):
        return None
