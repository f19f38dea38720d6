"""What a store says when it cannot: refused for good, or away for now.

    StoreError           refused: the URI, the credentials or the permissions must be mended
    └─ StoreUnavailable  away: the same call may succeed later. An OSError as well, like the full
                         disk of a local folder, so that `except OSError` means "not now"

A name that is not there is a FileNotFoundError in every backend.
"""


class StoreError(ValueError):
    """A store that cannot be opened, read or written. Names the URI and the next step."""


class StoreUnavailable(StoreError, ConnectionError):
    """A store that did not answer, or asked to be left alone, until the retries were spent."""


def cannot_write(place: str, why: object) -> StoreError:
    """The error for a place that exists and does not take what is written."""
    return StoreError(
        f"{place}: cannot be written ({why}). Choose another store, or mend its permissions."
    )
