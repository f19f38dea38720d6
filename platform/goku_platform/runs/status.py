"""Status: one screen that says how a run stands, why its attempts ended, and what to do next."""

import json
import time
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
from goku.contract.rundir import RunDir, rows_files
from goku.contract.samples import read
from goku_platform.cluster.client import Client, Sighting
from goku_platform.jobs.estimate import price
from goku_platform.jobs.state import WORDS, RunState, Wait, state_of
from goku_platform.runs.at_once import at_once
from goku_platform.runs.existing import elsewhere, pulse_of
from goku_platform.settings import Settings

_TAIL_BYTES = 1 << 16
_RECENT_STEPS = 50
_RECENT = 16  # attempts whose sets of samples are compared: one small read each


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


class SampleSet(BaseModel):
    """How many samples a training run reads from an attempt on."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    samples: int


class Status(BaseModel):
    """A run as it stands."""

    model_config = ConfigDict(frozen=True)

    name: str
    uri: str
    state: RunState
    words: str  # the state, said
    advice: str
    job: Job
    preset: str
    parameters: int
    waiting: str = ""  # why it does not run yet, as the target has it
    queue_position: int | None = None  # from 0
    pods: dict[str, int] = {}  # how many are in which phase
    trouble: str = ""  # the first bad event
    goodput: float | None = None  # productive seconds over all seconds of all attempts; training
    lost_steps: int = 0  # finished and not saved, over all attempts: to be done again
    gpu_hours: float | None = None  # of all attempts; None on CPUs
    cost: float | None = None  # of those, where the profile has a rate
    section: str | None = None  # what rank 0 is doing
    alive: bool | None = None  # None: the target cannot know
    place: str = ""  # where it lives, if it does
    pid: int | None = None  # of its supervisor, on this machine
    metrics_url: str | None = None  # where rank 0 serves Prometheus metrics, on this machine
    log: str | None = None  # the supervisor's output on this machine
    attempts: tuple[Attempt, ...] = ()
    training: Training | None = None  # None for jobs that do not train
    sample_sets: tuple[SampleSet, ...] = ()  # more than one: it changed between attempts


def status(
    run: RunDir,
    client: Client,
    *,
    settings: Settings | None = None,
    seen: Sighting | None = None,
) -> Status:
    """Read the ledger, the newest metrics, the checkpoints and the heartbeat or the pulse.

    `settings` adds GPU hours and cost; `seen` is a sighting that spares asking the client again.
    """
    config, seen = run.config(), seen or client.get(run.uri)
    recorded = Ledger(run).all()
    pulse = pulse_of(run, recorded[-1] if recorded else None)
    local = _heartbeat(seen)
    beat = local or (pulse.progress if pulse else None)
    attempts = _with_heartbeat(recorded, beat)
    newest = attempts[-1] if attempts else None
    hosts = elsewhere(newest, pulse, seen)
    alive = None if hosts else seen.alive
    row = state_of(
        newest.cause if newest else None, alive=alive, exit_code=seen.exit_code, wait=wait_of(seen)
    )
    hours = _gpu_hours(config, attempts, settings) if settings else None
    trains, open_now = config.job is Job.TRAIN, row.state is RunState.RUNNING
    return Status(
        name=run.name,
        uri=run.uri,
        state=row.state,
        words=WORDS[row.state],
        advice=row.advice,
        job=config.job,
        preset=config.preset,
        parameters=config.model.parameters,
        waiting=seen.waiting,
        queue_position=seen.queue_position,
        pods=dict(seen.pods),
        trouble=seen.trouble,
        goodput=goodput(a.seconds for a in attempts) if trains else None,
        lost_steps=sum(attempt.lost_steps for attempt in attempts),
        gpu_hours=hours,
        cost=price(hours, settings) if settings else None,
        section=beat.section if beat and open_now else None,
        alive=alive,
        place=hosts or (seen.place if seen.alive else ""),
        pid=seen.pid,
        metrics_url=_metrics_url(local),
        log=str(seen.log) if seen.log else None,
        attempts=attempts,
        training=_training(run, config, newest) if trains else None,
        sample_sets=_sample_sets(run, attempts) if trains else (),
    )


def wait_of(seen: Sighting) -> Wait:
    """What a job waits for, as far as its target says."""
    if not (seen.alive and seen.waiting):
        return Wait.NOTHING
    return Wait.PODS if any(seen.pods.values()) else Wait.QUEUE


def goodput(seconds: Iterable[dict[str, float]]) -> float | None:
    """Productive over total seconds; None before any second is accounted for."""
    total: Counter[str] = Counter()
    for by_class in seconds:
        total.update(by_class)
    whole = total.total()
    return total[TimeClass.PRODUCTIVE] / whole if whole else None


def _gpu_hours(
    config: RunConfig, attempts: tuple[Attempt, ...], settings: Settings
) -> float | None:
    """A process has a GPU each. Pods that wait or start hold some too, and are not counted."""
    if settings.gpus_per_node == 0 or config.job is Job.CURATE:
        return None
    return sum(_seconds(one) * one.nodes * one.processes_per_node for one in attempts) / 3600


def _seconds(attempt: Attempt) -> float:
    """Up to now if it is open; 0 if nobody saw it end."""
    open_until = attempt.started_at if attempt.over else time.time()
    return (attempt.ended_at or open_until) - attempt.started_at


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


def _sample_sets(run: RunDir, attempts: tuple[Attempt, ...]) -> tuple[SampleSet, ...]:
    """One for each time that one of the last attempts is known to have read other samples."""
    sets, digest, recent = list[SampleSet](), None, attempts[-_RECENT:]
    records = at_once(lambda attempt: read(run.store, attempt.number), recent)
    for attempt, seen in zip(recent, records, strict=True):
        if seen and seen.digest != digest:
            sets.append(SampleSet(attempt=attempt.number, samples=seen.samples))
            digest = seen.digest
    return tuple(sets)


def _training(run: RunDir, config: RunConfig, newest: Attempt | None) -> Training:
    latest, rows = run.newest(), _rows(run, newest) if newest else []
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
    files = rows_files(run.store, attempt.number)
    if not files:
        return []
    name = files[-1]
    size = run.store.size(name) or 0
    start = max(0, size - _TAIL_BYTES)
    lines = run.store.read_range(name, start, size).splitlines() if size else []
    return [json.loads(line) for line in (lines[1:] if start else lines) if line.endswith(b"}")]
