"""`python -m goku.apps.torchrun --outcome FILE <torchrun's own arguments>`: torchrun that tells.

It runs torch's launcher in this process and writes which ranks failed and how, which torchrun's
exit code (always 1) does not say. It never restarts ranks: a gloo or NCCL group often cannot be
rebuilt in place, and the supervisor's ledger counts attempts.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from goku.contract import outcome
from goku.contract.lineage import die_with_parent, expect_this_parent
from goku.contract.outcome import Failure


def main(arguments: list[str] | None = None) -> int:
    """Launch, wait, write the outcome. Returns torchrun's exit code: 0 or 1."""
    die_with_parent()  # before torch: its import takes seconds, in which the parent may die
    expect_this_parent()
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--outcome", type=Path, required=True)
    ours, theirs = parser.parse_known_args(arguments)
    failures = launch(theirs)
    outcome.write(ours.outcome, failures)
    return 1 if failures else 0


def launch(arguments: list[str]) -> tuple[Failure, ...]:
    """Run torchrun with these arguments to its end; the ranks that failed, first noticed first."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    torchrun: Any = importlib.import_module("torch.distributed.run")  # has no types
    try:
        torchrun.run(torchrun.parse_args(["--max-restarts", "0", *arguments]))
    except ChildFailedError as error:
        return tuple(sorted(_failures(error.failures), key=lambda failure: failure.at))
    return ()


def _failures(failures: Mapping[int, Any]) -> Iterable[Failure]:
    """By global rank. A message is text, or `{"message": text, ...}` from torch's error file."""
    for rank, failure in failures.items():
        message = failure.message
        text = message.get("message", "") if isinstance(message, Mapping) else message
        yield Failure(rank, failure.exitcode, failure.timestamp, " ".join(str(text).split()))


if __name__ == "__main__":
    sys.exit(main())
