"""Status: one screen that says how a run stands, why its attempts ended, and what to do next."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from goku.config import RunConfig
from goku.config.run import Job
from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import Cause
from goku.contract.metrics import TimeClass
from goku.contract.pod import PodDir, Progress
from goku.contract.rundir import METRICS, RunDir
from goku_platform.cluster.client import Client, Sighting
from goku_platform.jobs.estimate import parameters
from goku_platform.jobs.state import RunState, state_of

_TAIL_BYTES = 1 << 16
_RECENT_STEPS = 50


class Training(BaseModel):
    """How far a training run is. None: not known yet."""

    model_config = ConfigDict(frozen=True)

    step: int | None  # last finished, durable or not
    target_step: int
    durable_step: int | None  # the newest complete checkpoint
    loss: float | None
    learning_rate: float | None
    step_seconds: float | None  # mean of the recent steps
    eta_seconds: float | None  # at that pace


class Status(BaseModel):
    """A run as it stands."""

    model_config = ConfigDict(frozen=True)

    name: str
    uri: str
    state: RunState
    advice: str
    job: Job
    preset: str
    parameters: int
    goodput: float | None = None  # productive seconds over all seconds of all attempts; training
    section: str | None = None  # what rank 0 is doing, if it runs here
    alive: bool | None = None  # None: the target cannot know
    place: str = ""  # where it lives, if it does
    pid: int | None = None  # of its supervisor, on this machine
    metrics_url: str | None = None  # where rank 0 serves Prometheus metrics, on this machine
    log: str | None = None  # the supervisor's output on this machine
    attempts: tuple[Attempt, ...] = ()
    training: Training | None = None  # None for jobs that do not train


def status(run: RunDir, client: Client) -> Status:
    """Read the ledger, the newest metrics, the checkpoints and, on this machine, the heartbeat."""
    config, seen = run.config(), client.get(run.uri)
    beat = _heartbeat(seen)
    attempts = _with_heartbeat(Ledger(run).all(), beat)
    newest = attempts[-1] if attempts else None
    row = state_of(newest.cause if newest else None, alive=seen.alive, exit_code=seen.exit_code)
    return Status(
        name=run.name,
        uri=run.uri,
        state=row.state,
        advice=row.advice,
        job=config.job,
        preset=config.preset,
        parameters=parameters(config.model),
        goodput=goodput(a.seconds for a in attempts) if config.job is Job.TRAIN else None,
        section=beat.section if beat else None,
        alive=seen.alive,
        place=seen.place if seen.alive else "",
        pid=seen.pid,
        metrics_url=_metrics_url(beat),
        log=str(seen.log) if seen.log else None,
        attempts=attempts,
        training=_training(run, config, newest) if config.job is Job.TRAIN else None,
    )


def goodput(seconds: Iterable[dict[str, float]]) -> float | None:
    """Productive over total seconds; None before any second is accounted for."""
    total: Counter[str] = Counter()
    for by_class in seconds:
        total.update(by_class)
    whole = total.total()
    return total[TimeClass.PRODUCTIVE] / whole if whole else None


def _heartbeat(seen: Sighting) -> Progress | None:
    """Rank 0's, if the run lives on this machine."""
    if not (seen.alive and seen.pod_dir):
        return None
    try:
        return next((beat for beat in PodDir(seen.pod_dir).progress() if beat.rank == 0), None)
    except (OSError, ValueError):
        return None  # it is being cleared for the next attempt


def _metrics_url(beat: Progress | None) -> str | None:
    port = beat.metrics_port if beat else None
    return f"http://127.0.0.1:{port}/metrics" if port else None


def _with_heartbeat(attempts: list[Attempt], beat: Progress | None) -> tuple[Attempt, ...]:
    """The ledger, with what the running attempt has not written there yet."""
    if not attempts or beat is None or attempts[-1].cause is not Cause.RUNNING:
        return tuple(attempts)
    live = {
        "first_step": beat.first_step,
        "last_step": beat.step,
        "durable_step": beat.durable_step,
        "seconds": beat.seconds,
    }
    return (*attempts[:-1], attempts[-1].model_copy(update=live))


def _training(run: RunDir, config: RunConfig, newest: Attempt | None) -> Training:
    latest, rows = run.latest(), _rows(run, newest) if newest else []
    row = rows[-1] if rows else {}
    durable = latest.step if latest else None
    known = (row.get("step"), newest.last_step if newest else None)
    step = max((s for s in known if s is not None), default=durable)
    recent = [r["step_seconds"] for r in rows[-_RECENT_STEPS:] if r.get("step_seconds")]
    pace = sum(recent) / len(recent) if recent else None
    return Training(
        step=step,
        target_step=config.training.steps,
        durable_step=durable,
        loss=row.get("loss"),
        learning_rate=row.get("learning_rate"),
        step_seconds=pace,
        eta_seconds=(config.training.steps - (step or 0)) * pace if pace else None,
    )


def _rows(run: RunDir, attempt: Attempt) -> list[dict[str, Any]]:
    """The attempt's newest metrics, one dictionary a step; a cut line is left out."""
    name = f"{METRICS}/attempt-{attempt.number:04d}.jsonl"
    size = run.store.size(name) or 0
    start = max(0, size - _TAIL_BYTES)
    lines = run.store.read_range(name, start, size).splitlines() if size else []
    return [json.loads(line) for line in (lines[1:] if start else lines) if line.endswith(b"}")]
