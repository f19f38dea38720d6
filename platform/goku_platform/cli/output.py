"""How results look: aligned facts and tables for people, JSON for programs, warnings on stderr.

rich is imported on use: it costs 0.1 s, and JSON does not need it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from pydantic import BaseModel


def emit_json(value: Any) -> None:
    """One JSON document."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def facts(rows: Mapping[str, str | None]) -> None:
    """Aligned `name  value` lines; None leaves the line out."""
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        if value is not None:
            typer.echo(f"{name:<{width}}  {value}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; long cells are folded, never cut."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    Console(markup=False, highlight=False).print(grid)


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
    """12 s, 3 min 20 s, 5 h 12 min."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")
