"""What a run reads, looked at before it is launched: footage, clips, latents, weights, other runs.

Each look says what it found, or raises PreflightError with the command that makes what is missing.
"""

from collections.abc import Callable, Iterator

from goku.config import RunConfig
from goku.config.presets import names
from goku.config.run import Job
from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import CLIPS, LATENTS, RunDir, locate
from goku.contract.store import Store
from goku.contract.weights import CONFIG
from goku_platform.errors import PreflightError

# What two stages of one model may differ in: I2V adds an input to T2V's weights.
_MAY_DIFFER = {"image_conditioned", "rope_theta"}

Look = Callable[[RunConfig], str]  # what was seen; raises PreflightError, StoreError, OSError


def looks(config: RunConfig) -> Iterator[tuple[str, Look]]:
    """The name of each input, and how to look at it."""
    match config.job:
        case Job.CURATE:
            yield "footage", _footage
        case Job.ENCODE:
            yield "clips", _clips
            yield "encoders", _encoders
        case Job.TRAIN:
            if config.data.latents is not None:
                yield "latents", _latents
            else:
                yield "clips", _clips
                yield "encoders", _encoders
            if config.training.init_from is not None:
                yield "start", _start
        case Job.SAMPLE:
            yield "encoders", _encoders
            if config.sampling.first_frame is not None:
                yield "first frame", _first_frame
            yield "weights", _weights


def start_of(config: RunConfig) -> RunDir | None:
    """The run whose weights this one starts from, or samples."""
    reference = {
        Job.TRAIN: config.training.init_from,
        Job.SAMPLE: config.sampling.weights_from,
    }.get(config.job)
    return None if reference is None else RunDir(locate(config.store, reference))


def warnings(config: RunConfig) -> tuple[str, ...]:
    """What is there, but perhaps not as meant."""
    previous = start_of(config)
    if previous is None or not previous.exists():
        return ()
    last, latest = Ledger(previous).last(), previous.newest()
    if latest is None or (last and last.cause is Cause.DONE):
        return ()
    return (f"run {previous.name!r} is not done: this one starts from its step {latest.step}.",)


def _footage(config: RunConfig) -> str:
    source = config.data.source or ""
    found = Store(source).list()
    if not found:
        raise PreflightError(
            f"data.source={source}",
            "it is empty or does not exist",
            "Give a folder or URI with videos or pictures: --set data.source=<folder or URI>.",
        )
    return f"{len(found)} entries in {source}"


def _clips(config: RunConfig) -> str:
    return _set_of(config, "data.clips", config.data.clips, CLIPS)


def _latents(config: RunConfig) -> str:
    return _set_of(config, "data.latents", config.data.latents or "", LATENTS)


def _set_of(config: RunConfig, key: str, reference: str, kind: str) -> str:
    uri = locate(config.store, reference)
    commits = Store(f"{uri}/{kind}").list("commits")
    if not commits:
        raise PreflightError(
            f"{key}={reference}",
            f"there are no {kind} in {uri}",
            _make(reference, f"name another run: --set {key}=<run or URI>"),
        )
    return f"{kind} of {len(commits)} commits in {uri}"


def _encoders(config: RunConfig) -> str:
    """Weights in folders; those that need none were refused or allowed by the configuration."""
    places = {"vae.weights": config.vae.weights, "text.weights": config.text.weights}
    named = {key: place for key, place in places.items() if place not in (None, "random")}
    for key, place in named.items():
        _place(key, place or "", exists=bool(Store(place or "").list()))
    return ", ".join(place or "" for place in named.values()) or "none to be read"


def _first_frame(config: RunConfig) -> str:
    frame = config.sampling.first_frame or ""
    folder, _, name = frame.rpartition("/")
    _place("sampling.first_frame", frame, exists=Store(folder).exists(name))
    return frame


def _place(key: str, place: str, *, exists: bool) -> None:
    if not exists:
        raise PreflightError(f"{key}={place}", "it does not exist", f"Set it: --set {key}=<place>.")


def _start(config: RunConfig) -> str:
    previous, step = _trained(config, "training.init_from", config.training.init_from or "")
    _same_shape(config, previous)
    return f"step {step} of {previous.uri}"


def _weights(config: RunConfig) -> str:
    reference = config.sampling.weights_from
    if reference is None:
        raise PreflightError(
            "sampling.weights_from=None",
            "sampling needs a trained run",
            "Name one with --from RUN.",
        )
    exported, wanted = locate(config.store, reference), config.sampling.step
    if Store(exported).exists(CONFIG):
        if wanted is not None:
            raise PreflightError(
                f"sampling.step={wanted}", f"{exported} is an export, of one step", "Leave it out."
            )
        return f"an export in {exported}"
    # the model's shape is the trained run's own
    trained, step = _trained(config, "sampling.weights_from", reference, step=wanted)
    return f"step {step} of {trained.uri}"


def _trained(
    config: RunConfig, key: str, reference: str, *, step: int | None = None
) -> tuple[RunDir, int]:
    """The run referred to and its newest step, or the one asked for."""
    run = RunDir(locate(config.store, reference))
    steps = (manifest.step for manifest in run.complete())
    found = next((s for s in steps if step in (None, s)), None) if run.exists() else None
    if found is None:
        wanted = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
        raise PreflightError(
            f"{key}={reference}",
            f"there is no {wanted} in {run.uri}",
            _make(reference, "name another run with --from"),
        )
    return run, found


def _same_shape(config: RunConfig, previous: RunDir) -> None:
    ours = config.model.model_dump(exclude=_MAY_DIFFER)
    theirs = previous.config().model.model_dump(exclude=_MAY_DIFFER)
    for key, value in ours.items():
        if theirs[key] != value:
            raise PreflightError(
                f"model.{key}={value}",
                f"run {previous.name!r} has {theirs[key]}, so its weights do not fit",
                "Use the --size that run was launched with, or start from another.",
            )


def _make(reference: str, otherwise: str) -> str:
    if reference in names():
        return f"Launch it first (goku-platform launch {reference}), or {otherwise}."
    return f"Check the name, or {otherwise}."
