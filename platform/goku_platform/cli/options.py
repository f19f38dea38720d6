"""Options that several verbs share, their completion, and the profile and client they choose."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from goku.config import RunConfig
    from goku.contract.rundir import RunDir
    from goku_platform.cluster.client import Client
    from goku_platform.settings import Profile, Settings

SECONDS = 60.0  # a cold store and a busy API server answer in a tenth of that


class KindName(StrEnum):
    """`settings.Kind`, which costs too much to import for help, and leaving the choice open."""

    AUTO = "auto"
    PYTORCHJOB = "pytorchjob"
    TRAINJOB = "trainjob"
    JOBSET = "jobset"
    JOB = "job"
    RAYJOB = "rayjob"


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


def _world_keys(incomplete: str) -> list[str]:
    return [
        key for key in _keys(incomplete) if key.startswith(("parallel.", "checkpoint.", "health."))
    ]


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
World = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=_world_keys,
        help="A key of parallel.*, checkpoint.* or health.*; repeatable.",
    ),
]
StoreUri = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="Where runs live; else the profile's.")
]
ProfileFile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="Cluster profile; else ./goku-platform.yaml."),
]
KindOfJob = Annotated[
    KindName | None,
    typer.Option("--kind", help="Kind of job object on a cluster; else the profile's."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0,
        help="Give up if store or cluster have not answered by then.",
    ),
]


def load(profile: Path | None, store: str | None, kind: KindName | None = None) -> "Profile":
    """The profile with its origins; `kind` outranks its kind."""
    from goku_platform import settings

    loaded = _here(settings.load(profile, store=store))
    if kind is None:
        return loaded
    wanted = None if kind is KindName.AUTO else settings.Kind(kind)
    return loaded._replace(
        settings=loaded.settings.model_copy(update={"kind": wanted}),
        origin={**loaded.origin, "kind": "option"},
    )


def _here(profile: "Profile") -> "Profile":
    """On this machine, unless the profile says more: no GPU is planned, or paid, that is not."""
    local, said = profile.settings.target == "local", profile.origin["gpus_per_node"] != "default"
    if not local or said or any(Path("/dev").glob("nvidia[0-9]*")):
        return profile
    return profile._replace(settings=profile.settings.model_copy(update={"gpus_per_node": 0}))


def client(settings: "Settings", seconds: float) -> "Client":
    """The client of the profile's target; one call of it takes `seconds` at most."""
    if settings.target == "local":
        from goku_platform.cluster.local import LocalClient

        return LocalClient()
    from goku_platform.cluster.kubernetes import KubernetesClient
    from goku_platform.render.kinds import render

    return KubernetesClient(settings, render=render, timeout_seconds=max(seconds, 1e-3))


def choose(
    run: str,
    profile: Path | None,
    store: str | None,
    seconds: float,
    kind: KindName | None = None,
) -> "tuple[RunDir, Settings, Client]":
    """The run that a verb is about, the settings and the client to reach it with."""
    from goku_platform.runs.find import find

    settings = load(profile, store, kind).settings
    return find(run, store=settings.store), settings, client(settings, seconds)


def compose(
    profile: "Profile",
    preset: str,
    *,
    size: str,
    name: str | None,
    start_from: str | None,
    overrides: list[str] | None,
) -> "RunConfig":
    """The configuration that the arguments of `launch` ask for."""
    from goku_platform.runs.compose import Request, compose

    request = Request(
        preset=preset, size=size, name=name, start_from=start_from, overrides=tuple(overrides or ())
    )
    return compose(request, store=profile.settings.store)
