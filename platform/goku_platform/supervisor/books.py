"""The supervisors' side of the ledger: what opens an attempt, what forbids one, what closes it.

Node 0 keeps the books; when it is gone, the lowest node that is left closes its record.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from goku.config import ConfigError, RunConfig
from goku.contract.attempts import Attempt, Ledger, Steps
from goku.contract.exits import Cause
from goku.contract.pod import Progress, Verdict
from goku.contract.rundir import RunDir
from goku.contract.store import StoreError, StoreUnavailable
from goku_platform.supervisor import record
from goku_platform.supervisor.gang import Report, unopened
from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.watch import Watch
from goku_platform.supervisor.within import within

_CLOSE_TRIES, _CLOSE_SECONDS = 3, 1.0
_ASK_LIMIT_SECONDS = 10.0
_CLOSE_LIMIT_SECONDS = 60.0  # a store that hangs: the next attempt closes the record


class Books:
    """The ledger of one run, as the supervisor of one node writes it."""

    def __init__(self, run: RunDir, config: RunConfig, place: Placement) -> None:
        self._run, self._config, self._place = run, config, place
        self._ledger = Ledger(run)

    def final(self) -> Attempt | None:
        """The end after which no attempt may begin until a person says so."""
        return self._ledger.final()

    def begin(self, processes: int) -> Attempt:
        """Node 0, when all are there: the attempt, or an end that spares them one."""
        try:
            if final := self._ledger.final():
                return final
            count, last = self._ledger.fruitless(), self._ledger.last()
            attempt = self._ledger.open(
                host=self._place.host, nodes=self._place.nodes, processes_per_node=processes
            )
        except StoreUnavailable as error:
            return unopened(Cause.CRASHED, str(error))
        except (ConfigError, StoreError) as error:
            return unopened(Cause.USER_ERROR, str(error))
        if last is None or count < self._config.health.max_fruitless_attempts:
            return attempt
        return self._give_up(attempt, count, last)

    def close(
        self,
        attempt: Attempt,
        reports: Sequence[Report],
        watch: Watch,
        *,
        warn: Callable[[str], None],
    ) -> Attempt:
        """Close the record once, for all nodes; the record as it then stands."""
        progress = self._rank_0(attempt, watch)
        ended = record.closed(
            attempt,
            reports,
            progress=progress,
            committed=lambda: self._committed(attempt.number),
            at=time.time(),
        )
        written = within(_CLOSE_LIMIT_SECONDS, lambda: self._write(ended, warn))
        if written is None:
            warn("the attempt's record was not written; the next attempt will")
        return written or ended

    def _give_up(self, attempt: Attempt, count: int, last: Attempt) -> Attempt:
        """Record that the restart budget is spent. Only a person starts the run again."""
        why = f"{last.cause} {last.message}".strip()
        message = (
            f"{count} attempts in a row made nothing durable, the last: {why}. "
            f"Mend that, then goku-platform resume {self._run.name}."
        )
        verdict = Verdict(Cause.NO_PROGRESS, message)
        ended = attempt.ended(verdict, at=time.time(), steps=Steps(), progress=None)
        self._ledger.close(ended)
        return ended

    def _write(self, ended: Attempt, warn: Callable[[str], None]) -> Attempt | None:
        """The record outlives everything else: a store that stumbles is asked again."""
        for _ in range(_CLOSE_TRIES):
            try:
                return self._written(ended)
            except Exception as error:  # every driver has exceptions of its own
                warn(f"the attempt's record was not written ({error})")
                time.sleep(_CLOSE_SECONDS)
        return None

    def _written(self, ended: Attempt) -> Attempt:
        """Node 0 has the last word; another node only where nobody else has had it."""
        if self._place.node_rank > 0 and (known := self._ledger.get(ended.number)).over:
            return known
        self._ledger.close(ended)
        return ended

    def _committed(self, number: int) -> Steps:
        """The store's word; none if it gives none in time: the next save will show."""

        def ask() -> Steps:
            with suppress(Exception):  # every driver has exceptions of its own
                return self._ledger.committed(number)
            return Steps()

        return within(_ASK_LIMIT_SECONDS, ask) or Steps()

    def _rank_0(self, attempt: Attempt, watch: Watch) -> Progress | None:
        """The last that is known of rank 0: on its node, or by the pulse of one that is gone."""
        if self._place.node_rank == 0:
            return watch.progress.get(0)
        with suppress(Exception):  # the record is worth more than its seconds
            pulse = self._ledger.pulse(attempt.number)
            return pulse.progress if pulse else None
        return None
