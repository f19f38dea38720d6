"""Options that several verbs share, their completion, and the profile and client they choose."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from goku.contract.rundir import RunDir
    from goku_platform.cluster.client import Client
    from goku_platform.settings import Profile, Settings


def _presets(incomplete: str) -> list[str]:
    from goku.config.presets import names

    return [name for name in names() if name.startswith(incomplete)]


def _sizes(incomplete: str) -> list[str]:
    from goku.config.presets import SIZES

    return [size for size in SIZES if size.startswith(incomplete)]


def _keys(incomplete: str) -> list[str]:
    from goku.config import RunConfig
    from goku.config.section import keys

    return [f"{key}=" for key in keys(RunConfig) if key.startswith(incomplete)]


def _runs(context: typer.Context, incomplete: str) -> list[str]:
    from goku_platform.runs.find import runs

    given = context.params
    try:
        store = load(given.get("profile"), given.get("store")).settings.store
        return [name for name in runs(store) if name.startswith(incomplete)]
    except Exception:
        return []  # a shell that waits for a completion has no use for an error


PresetName = Annotated[
    str, typer.Argument(metavar="PRESET", autocompletion=_presets, help="See: presets.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", autocompletion=_runs, help="A run's name or URI.")
]
Size = Annotated[str, typer.Option(autocompletion=_sizes, help="Size of the model: tiny to 8b.")]
Name = Annotated[
    str | None, typer.Option(help="Name of the run; the preset's by default.", show_default=False)
]
StartFrom = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="RUN", autocompletion=_runs, help="Run whose result this one starts from."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", autocompletion=_keys, help="Override one key; repeatable."
    ),
]
StoreUri = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="Where runs live; else the profile's.")
]
ProfileFile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="Cluster profile; else ./goku-platform.yaml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def load(profile: Path | None, store: str | None) -> "Profile":
    """The profile with its origins."""
    from goku_platform import settings

    return settings.load(profile, store=store)


def client(settings: "Settings") -> "Client":
    """The client of the profile's target."""
    from goku_platform.cluster.kubernetes import KubernetesClient
    from goku_platform.cluster.local import LocalClient

    return LocalClient() if settings.target == "local" else KubernetesClient()


def choose(run: str, profile: Path | None, store: str | None) -> "tuple[RunDir, Settings, Client]":
    """The run that a verb is about, the settings and the client to reach it with."""
    from goku_platform.runs.find import find

    settings = load(profile, store).settings
    return find(run, store=settings.store), settings, client(settings)
