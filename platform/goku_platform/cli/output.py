"""How results look: aligned facts and tables for people, JSON for programs, warnings on stderr.

rich is imported on use: it costs 0.1 s, and JSON does not need it.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from pydantic import BaseModel

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_UNFOLDED = 10_000  # columns

Facts = Mapping[str, str | None]


def emit_json(value: Any) -> None:
    """One JSON document."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def emit_line(value: Any, *, err: bool = False) -> None:
    """One JSON document on one line: for streams."""
    typer.echo(json.dumps(value, default=_plain), err=err)


def facts(rows: Facts) -> None:
    """Aligned `name  value` lines; None leaves the line out."""
    for line in fact_lines(rows):
        typer.echo(line)


def fact_lines(rows: Facts) -> list[str]:
    shown = {name: value for name, value in rows.items() if value is not None}
    width = max(map(len, shown))
    return [f"{name:<{width}}  {value}" for name, value in shown.items()]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; long cells are folded, never cut."""
    show(grid(columns, rows))


def show(one: "RenderableType") -> None:
    """Print on the terminal, or into a pipe or file, where no line is folded."""
    console().print(one)


def console() -> "Console":
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNFOLDED
    return Console(markup=False, highlight=False, width=width)


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def warn(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)


def count(value: float | None) -> str:
    """1234567 -> 1.2M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value is not None and value >= size:
            return f"{value / size:.1f}{unit}"
    return "-" if value is None else f"{value:g}"


def size(nbytes: float | None) -> str:
    """Bytes with a binary unit."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes is not None and nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return "-" if nbytes is None else f"{nbytes:.0f} B"


def duration(seconds: float | None) -> str:
    """12 s, 3 min 20 s, 5 h 12 min, 4 d 3 h."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return f"{hours // 24} d {hours % 24} h"


def ago(at: float | None) -> str:
    """How long ago a unix time was."""
    return "-" if at is None else f"{duration(max(0.0, round(time.time() - at)))} ago"


def moment(at: float | None) -> str:
    """A unix time, to the minute."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ") if at else "-"


def share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")
