"""The question before something that is dear or cannot be undone."""

import sys

import typer


def ask(question: str, *, yes: bool, verb: str) -> None:
    """Return if `yes` or if a person agrees; raises ConsentError if not, or without a terminal."""
    from goku_platform.errors import ConsentError

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConsentError(
            f"goku-platform {verb}",
            "it asks before it goes on, and there is no terminal to ask on",
            "Agree in advance: --yes.",
        )
    if not typer.confirm(question, err=True):
        raise ConsentError(f"goku-platform {verb}", "it was not agreed to", "Nothing was changed.")
