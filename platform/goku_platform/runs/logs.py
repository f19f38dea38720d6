"""Logs: what the supervisors shipped to the run directory.

    logs/attempt-0001/node-0000/part-00000000.log

The parts of a node, in order, are its whole output; a cut may fall inside a line. torchrun puts
`[rank3]:` in front of each line of a rank, counted on its node; other lines are the supervisor's.
Before the first part of the newest attempt there is only what the target itself kept.
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
_PART = re.compile(r"part-(\d+)\.log")


def logs(
    run: RunDir,
    client: Client,
    *,
    attempt: int | None = None,
    previous: bool = False,
    rank: int | None = None,
    follow: bool = False,
) -> Iterator[str]:
    """Lines of one attempt (by default the newest), of everyone or of one rank of the run.

    `previous` means the attempt before the newest, or the pods' start before their last if there
    is no attempt yet. With `follow`, until the attempt ends. Raises RunError if there is no such
    attempt or rank, or for both `attempt` and `previous`.
    """
    attempts = Ledger(run).all()
    chosen = _chosen(run, attempts, attempt, previous=previous)
    if chosen is None:
        yield from client.logs(run.uri, previous=previous, follow=follow)
        return
    node = _node(chosen, rank)
    local = None if rank is None else _local(chosen, rank)
    shipped = _Shipped(run, chosen.number, node)
    if not follow and chosen == attempts[-1] and shipped.empty() and client.get(run.uri).alive:
        yield from (line for line in client.logs(run.uri, node=node) if _is_of(local, line))
        return
    while True:
        alive = follow and _runs(run, chosen, client)  # before the read: the last part counts
        yield from (line for line in shipped.lines(last=not alive) if _is_of(local, line))
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

    def empty(self) -> bool:
        return not any(self._parts(node) for node in self._nodes())

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

    def _parts(self, node: str) -> list[str]:
        """By number, not by name: older runs counted in five digits, and past them."""
        numbered = ((_PART.fullmatch(name), name) for name in self._store.list(node))
        return [name for _, name in sorted((int(mark[1]), name) for mark, name in numbered if mark)]

    def _news(self, node: str) -> Iterator[bytes]:
        for name in self._parts(node):
            part = f"{node}/{name}"
            if part not in self._read:
                self._read.add(part)
                yield self._store.read(part)


def _chosen(
    run: RunDir, attempts: list[Attempt], number: int | None, *, previous: bool
) -> Attempt | None:
    """The attempt asked for; None: there is none at all, and the target may know more."""
    if number is not None and previous:
        raise RunError("--previous", f"--attempt {number} says already which", "Give one of them.")
    if previous and attempts:
        number = attempts[-1].number - 1
    if number is None:
        return attempts[-1] if attempts else None
    found = next((attempt for attempt in attempts if attempt.number == number), None)
    if found is None:
        option = "--previous" if previous else f"--attempt {number}"
        known = ", ".join(str(attempt.number) for attempt in attempts) or "none yet"
        raise RunError(option, f"run {run.name!r} has no such attempt", f"There are: {known}.")
    return found


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
