"""Logs: what the supervisors shipped to the run directory.

    logs/attempt-0001/node-0000/part-00000.log

The parts of a node, in order, are its whole output; a cut may fall inside a line. torchrun puts
`[rank3]:` in front of each line of a rank, counted on its node; other lines are the supervisor's.
Before the first attempt there is only what the target itself kept.
"""

import re
import time
from collections.abc import Iterator

from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import LOGS, RunDir
from goku_platform.cluster.client import Client
from goku_platform.errors import RunError

_POLL_SECONDS = 1.0
_MARK = re.compile(r"\[[a-z]+(\d+)\]:")


def logs(
    run: RunDir,
    client: Client,
    *,
    attempt: int | None = None,
    rank: int | None = None,
    follow: bool = False,
) -> Iterator[str]:
    """Lines of one attempt (by default the newest), of everyone or of one rank of the run.

    With `follow`, until the attempt ends. Raises RunError if there is no such attempt or rank.
    """
    chosen = _attempt(run, attempt)
    if chosen is None:
        yield from client.logs(run.uri, follow=follow)
        return
    lines = _Shipped(run, chosen.number, _node(chosen, rank)).lines
    local = None if rank is None else _local(chosen, rank)
    while True:
        alive = follow and _runs(run, chosen, client)  # before the read: the last part counts
        yield from (line for line in lines(last=not alive) if _is_of(local, line))
        if not alive:
            return
        time.sleep(_POLL_SECONDS)


class _Shipped:
    """The parts of an attempt's nodes, read onward from wherever the last look ended."""

    def __init__(self, run: RunDir, attempt: int, node: int | None) -> None:
        self._store = run.store.child(f"{LOGS}/attempt-{attempt:04d}")
        self._node = node
        self._read: set[str] = set()  # parts: each is written once
        self._partial: dict[str, bytes] = {}  # node -> a line without its end

    def lines(self, *, last: bool) -> Iterator[str]:
        """Whole lines that are new, node by node; with `last` also an unfinished one."""
        for node in self._nodes():
            data = self._partial.pop(node, b"") + b"".join(self._news(node))
            *whole, partial = data.split(b"\n")
            if partial and not last:
                self._partial[node] = partial
            yield from (line.decode(errors="replace") for line in whole)
            if partial and last:
                yield partial.decode(errors="replace")

    def _nodes(self) -> list[str]:
        if self._node is not None:
            return [f"node-{self._node:04d}"]
        return [name for name in self._store.list() if name.startswith("node-")]

    def _news(self, node: str) -> Iterator[bytes]:
        for name in self._store.list(node):
            part = f"{node}/{name}"
            if name.startswith("part-") and part not in self._read:
                self._read.add(part)
                yield self._store.read(part)


def _attempt(run: RunDir, number: int | None) -> Attempt | None:
    attempts = {attempt.number: attempt for attempt in Ledger(run).all()}
    if number is None:
        return attempts[max(attempts)] if attempts else None
    if number not in attempts:
        known = ", ".join(map(str, attempts)) or "none yet"
        raise RunError(
            f"--attempt {number}", f"run {run.name!r} has no such attempt", f"There are: {known}."
        )
    return attempts[number]


def _node(attempt: Attempt, rank: int | None) -> int | None:
    """The node that a rank is on; None for all of them."""
    if rank is None:
        return None
    world = attempt.nodes * attempt.processes_per_node
    if not 0 <= rank < world:
        raise RunError(
            f"--rank {rank}",
            f"attempt {attempt.number} has {world} ranks",
            f"Use 0 to {world - 1}.",
        )
    return rank // attempt.processes_per_node


def _local(attempt: Attempt, rank: int) -> int | None:
    """The number in front of the rank's lines; None where a node has but one rank."""
    processes = attempt.processes_per_node
    return rank % processes if processes > 1 else None


def _runs(run: RunDir, chosen: Attempt, client: Client) -> bool:
    """Whether more may come: the last part is shipped after the record is closed."""
    newest = Ledger(run).last()
    if newest is None or newest.number != chosen.number:
        return False
    alive = client.get(run.uri).alive
    return newest.cause is Cause.RUNNING if alive is None else alive


def _is_of(local_rank: int | None, line: str) -> bool:
    if local_rank is None:
        return True
    mark = _MARK.match(line)
    return mark is not None and int(mark[1]) == local_rank
