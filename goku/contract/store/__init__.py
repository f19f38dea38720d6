"""The one seam for every read and write of a run: a URI, and a backend that its scheme chooses.

`store.py` says what a store promises; `local.py`, `s3.py` and `driver.py` (anything else that
fsspec opens) keep it. docs/decisions/0006 has the guarantee that each of them gives.
"""

from goku.contract.store.errors import StoreError, StoreUnavailable
from goku.contract.store.patience import patiently
from goku.contract.store.store import Store

__all__ = ["Store", "StoreError", "StoreUnavailable", "patiently"]
