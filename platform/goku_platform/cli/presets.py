"""`presets`: what can be launched."""

from typing import TYPE_CHECKING

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from goku_platform.runs.presets import Preset


def presets(as_json: options.Json = False) -> None:
    """List the presets and sizes."""
    from goku_platform.cli.output import emit_json, table
    from goku_platform.runs.presets import listing, sizes

    known = listing()
    if as_json:
        emit_json({"presets": known, "sizes": sizes()})
        return
    columns = ("preset", "job", "frames x pixels", "needs")
    table(columns, (_row(preset) for preset in known))
    typer.echo(f"sizes: {', '.join(sizes())}")


def _row(preset: "Preset") -> tuple[str, ...]:
    return (
        preset.name,
        preset.job,
        f"{preset.frames} x {preset.height}x{preset.width}" if preset.height else "",
        ", ".join(run for run in (preset.reads, preset.starts_from) if run),
    )
