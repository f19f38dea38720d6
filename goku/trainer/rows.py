"""An attempt's rows of metrics, one a step, in files that are written whole.

So a reader never meets half a line, and an object store needs no append. A file that is full is
left alone and another begun: after a week of steps a flush costs what it did on the first day.
"""

import json
import math
from collections.abc import Mapping

from goku.contract.rundir import rows_file
from goku.trainer.courier import Courier

_MOST = 10_000  # rows of a file: 2.5 MB


class Rows:
    """Files of JSON lines on their way to a store."""

    def __init__(self, courier: Courier, attempt: int) -> None:
        self._courier, self._attempt = courier, attempt
        self._part = 1
        self._lines: list[str] = []  # of the part, but for the last row
        self.last: dict[str, float] | None = None  # may still be added to

    def add(self, row: Mapping[str, float]) -> None:
        """The row of another step."""
        if self.last is not None:
            self._lines.append(_line(self.last))
        if len(self._lines) == _MOST:
            self._carry(self._lines)
            self._part, self._lines = self._part + 1, []
        self.last = dict(row)

    def send(self) -> None:
        """Have all rows so far written."""
        if self.last is not None:
            self._carry([*self._lines, _line(self.last)])

    def _carry(self, lines: list[str]) -> None:
        self._courier.send(rows_file(self._attempt, self._part), "".join(lines).encode())


def _line(row: Mapping[str, float]) -> str:
    """JSON has no NaN."""
    finite = {key: value if math.isfinite(value) else None for key, value in row.items()}
    return json.dumps(finite) + "\n"
