"""Files of curation and encoding that are not what was written: named, with how to make them anew.

Without a name in the message nobody would find one of 100,000. Needs no torch.
"""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from goku.config.errors import ConfigError
from goku.contract.store import Store

Record = TypeVar("Record", bound=BaseModel)


def read_record(kind: type[Record], store: Store, name: str, *, fix: str) -> Record:
    """The record in a JSON file. Raises FileNotFoundError, and ConfigError if it is damaged."""
    try:
        return kind.model_validate_json(store.read(name))
    except ValidationError:
        raise damaged(store, name, fix=fix) from None


def damaged(store: Store, name: str, *, fix: str) -> ConfigError:
    """What to raise where a file does not hold what was written; `fix` is the next step."""
    rule = "its bytes have changed, or another version of goku wrote it"
    return ConfigError(f"{store.uri}/{name}", rule, fix)
