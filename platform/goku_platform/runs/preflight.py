"""What a run needs, looked at before anything is written: earlier runs, footage, weights, store.

Each check raises PreflightError with the command that would make what is missing. The store is
tried last, because trying it makes its folder.
"""

from goku.config import RunConfig
from goku.config.presets import names
from goku.config.run import Job
from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import CLIPS, LATENTS, RunDir, locate
from goku.contract.store import Store
from goku_platform.errors import PreflightError

# What two stages of one model may differ in: I2V adds an input to T2V's weights.
_MAY_DIFFER = {"image_conditioned", "rope_theta"}


def check(config: RunConfig) -> tuple[str, ...]:
    """Raise PreflightError or StoreError for what is missing; return warnings."""
    warnings: list[str] = []
    match config.job:
        case Job.CURATE:
            _footage(config)
        case Job.ENCODE:
            _set_of(config, "data.clips", config.data.clips, CLIPS)
            _encoders(config)
        case Job.TRAIN:
            warnings += _training(config)
        case Job.SAMPLE:
            warnings += _sampling(config)
    Store(config.store).check_writable()
    return tuple(warnings)


def _footage(config: RunConfig) -> None:
    source = config.data.source or ""
    if not Store(source).list():
        raise PreflightError(
            f"data.source={source}",
            "it is empty or does not exist",
            "Give a folder or URI with videos or pictures: --set data.source=<folder or URI>.",
        )


def _training(config: RunConfig) -> list[str]:
    if config.data.latents is not None:
        _set_of(config, "data.latents", config.data.latents, LATENTS)
    else:
        _set_of(config, "data.clips", config.data.clips, CLIPS)
        _encoders(config)
    if config.training.init_from is None:
        return []
    previous = _trained(config, "training.init_from", config.training.init_from)
    _same_shape(config, previous)
    return _unfinished(previous)


def _sampling(config: RunConfig) -> list[str]:
    _encoders(config)
    frame = config.sampling.first_frame
    if frame is not None:
        folder, _, name = frame.rpartition("/")
        _place("sampling.first_frame", frame, exists=Store(folder).exists(name))
    reference = config.sampling.weights_from
    if reference is None:
        raise PreflightError(
            "sampling.weights_from=None",
            "sampling needs a trained run",
            "Name one with --from RUN.",
        )
    # the model's shape is the trained run's own
    trained = _trained(config, "sampling.weights_from", reference, step=config.sampling.step)
    return _unfinished(trained)


def _encoders(config: RunConfig) -> None:
    """Weights in folders; those that need none were refused or allowed by the configuration."""
    for key, place in (("vae.weights", config.vae.weights), ("text.weights", config.text.weights)):
        if place is not None and place != "random":
            _place(key, place, exists=bool(Store(place).list()))


def _place(key: str, place: str, *, exists: bool) -> None:
    if not exists:
        raise PreflightError(f"{key}={place}", "it does not exist", f"Set it: --set {key}=<place>.")


def _set_of(config: RunConfig, key: str, reference: str, kind: str) -> None:
    uri = locate(config.store, reference)
    if not Store(f"{uri}/{kind}").list("commits"):
        raise PreflightError(
            f"{key}={reference}",
            f"there are no {kind} in {uri}",
            _make(reference, f"name another run: --set {key}=<run or URI>"),
        )


def _trained(config: RunConfig, key: str, reference: str, *, step: int | None = None) -> RunDir:
    """The run referred to, if it has the checkpoint."""
    run = RunDir(locate(config.store, reference))
    steps = (manifest.step for manifest in run.complete())
    if not run.exists() or next((s for s in steps if step in (None, s)), None) is None:
        wanted = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
        raise PreflightError(
            f"{key}={reference}",
            f"there is no {wanted} in {run.uri}",
            _make(reference, "name another run with --from"),
        )
    return run


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


def _unfinished(previous: RunDir) -> list[str]:
    last, latest = Ledger(previous).last(), previous.latest()
    if latest is None or (last and last.cause is Cause.DONE):
        return []
    return [f"run {previous.name!r} is not done: this one starts from its step {latest.step}."]


def _make(reference: str, otherwise: str) -> str:
    if reference in names():
        return f"Launch it first (goku-platform launch {reference}), or {otherwise}."
    return f"Check the name, or {otherwise}."
