"""A run by its name or URI, or an error that lists the runs there are."""

import difflib

from goku.contract.rundir import RunDir, locate
from goku.contract.store import Store
from goku_platform.errors import RunError
from goku_platform.settings import absolute


def find(reference: str, *, store: str) -> RunDir:
    """The run, which exists. Raises RunError, naming the nearest run, and StoreError."""
    uri = locate(store, reference)
    run = RunDir(absolute(uri))
    if run.exists():
        return run
    known = runs(store)
    near = difflib.get_close_matches(reference, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else _listing(known, store)
    raise RunError(f"run {reference!r}", f"there is none at {run.uri}", hint)


def runs(store: str) -> list[str]:
    """Names of the runs in a store."""
    root = Store(store)
    return [name for name in root.list() if root.exists(f"{name}/run.json")]


def _listing(known: list[str], store: str) -> str:
    if known:
        return f"There are: {', '.join(known)}."
    return f"{store} holds no runs: name another with --store, or launch one."
