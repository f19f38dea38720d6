"""`goku-platform`: the verbs, and the one place where an error becomes a line and an exit code.

Help must be quick, so nothing here or in the verbs imports configuration, stores or Kubernetes
before a command runs; rich help pages alone would cost 0.3 s. What users can mend ends with
`error: ...` and its exit code, anything else is a bug and keeps its traceback.
"""

import atexit
import gc
import sys
from typing import Annotated

import typer

from goku_platform.cli import (
    bench,
    ckpt,
    delete,
    doctor,
    events,
    launch,
    list,
    logs,
    presets,
    render,
    resume,
    status,
    stop,
)

_YOUNG = 50_000  # objects made since the last look for garbage, by default 700

app = typer.Typer(
    name="goku-platform",
    help="Train Goku models: launch a stage, watch it, stop it, bring it back.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from goku_platform.version import package_version

        typer.echo(f"goku-platform {package_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Holds the options that stand before a verb."""


# in the order in which a new user needs them
app.command()(presets.presets)
app.command()(doctor.doctor)
app.command()(launch.launch)
app.command()(status.status)
app.command()(logs.logs)
app.command()(events.events)
app.command("list")(list.list_runs)
app.command()(stop.stop)
app.command()(resume.resume)
app.add_typer(ckpt.app, name="ckpt")
app.command()(delete.delete)
app.command()(render.render)
app.command()(bench.bench)


def main() -> None:
    """The console script."""
    _leave_garbage()
    try:
        app(prog_name="goku-platform")
    except Exception as error:
        code = explain(error)
        if code is None:
            raise
        sys.exit(code)


def _leave_garbage() -> None:
    """Look for garbage seldom, and not at the end: nearly all objects are of imports, and stay.

    Looking through them again and again would be a quarter of a launch.
    """
    gc.set_threshold(_YOUNG)
    atexit.register(gc.freeze)


def explain(error: Exception) -> int | None:
    """Say what is wrong on stderr and return the exit code; None for what is not the user's."""
    from goku.config import ConfigError
    from goku.contract.exits import Exit
    from goku.contract.manifest import CorruptCheckpoint
    from goku.contract.store import StoreError
    from goku_platform.errors import PlatformError

    if isinstance(error, PlatformError):
        code = error.exit_code
    elif isinstance(error, (ConfigError, StoreError, CorruptCheckpoint, OSError)):
        code = Exit.USER_ERROR
    else:
        return None
    typer.echo(f"error: {error}", err=True)
    return int(code)
