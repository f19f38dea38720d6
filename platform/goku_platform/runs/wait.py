"""Wait: the lines of a run as it writes them, and the exit code it ends with."""

from collections.abc import Iterator

from goku.contract.attempts import Ledger
from goku.contract.exits import Exit
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client
from goku_platform.cluster.pauses import Pauses


def follow(run: RunDir, client: Client) -> Iterator[str]:
    """Lines of the run's newest start, until it ends."""
    yield from client.logs(run.uri, follow=True)
    pauses = Pauses()
    while client.get(run.uri).alive:
        pauses.sleep()


def exit_code(run: RunDir, client: Client) -> int:
    """How the run ended: the supervisor's own code, else what it wrote in the ledger."""
    seen = client.get(run.uri).exit_code
    if seen is not None:
        return seen if seen >= 0 else 128 - seen  # ended by a signal, as a shell counts it
    last = Ledger(run).last()
    recorded = last.exit_code if last else None
    return Exit.USER_ERROR if recorded is None else recorded
