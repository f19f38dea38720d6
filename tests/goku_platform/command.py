"""The command line, called in this process or as one of its own, and what came of it."""

import json
import sys
from typing import Any, NamedTuple, Protocol

PROGRAM = [sys.executable, "-c", "from goku_platform.cli.app import main; main()"]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Call(Protocol):
    def __call__(self, *arguments: str) -> Result: ...
