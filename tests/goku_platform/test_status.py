"""What `status` makes of a ledger, metrics and heartbeats made by hand."""

import json
import time
from pathlib import Path

import pytest

from goku.contract.attempts import Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.pod import PodDir, Progress
from goku.contract.rundir import RunDir, rows_file, samples_file
from goku_platform.cluster.client import Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.jobs.state import RunState
from goku_platform.runs.status import Training, goodput, status
from goku_platform.settings import Settings
from tests.goku_platform import made


def rows(run: RunDir, attempt: int, steps: range, part: int = 1) -> None:
    lines = [
        json.dumps({"step": step, "loss": 1 / step, "learning_rate": 1e-3, "step_seconds": 2.0})
        for step in steps
    ]
    run.store.write(rows_file(attempt, part), ("\n".join(lines) + "\n").encode())


def training(run: RunDir, client: FakeClient) -> Training:
    state = status(run, client)
    assert state.training is not None
    return state.training


def test_a_run_that_nobody_started(store: str) -> None:
    state = status(made.run(store), FakeClient())
    assert (state.state, state.attempts, state.goodput) == (RunState.READY, (), None)
    assert state.training is not None
    assert state.training.step is None
    assert state.training.target_step == 40


def test_a_run_after_a_crash(store: str) -> None:
    run = made.run(store)
    made.checkpoint(run, 20)
    made.attempt(
        run,
        Cause.CRASHED,
        message="rank 1: boom",
        first_step=0,
        last_step=25,
        durable_step=20,
        lost_steps=5,
        seconds={"productive": 60.0, "startup": 40.0},
    )
    rows(run, 1, range(1, 24))
    state = status(run, FakeClient())
    assert (state.state, state.advice) == (RunState.INTERRUPTED, "resume")
    assert state.goodput == pytest.approx(0.6)
    assert state.training == Training(
        step=25,
        target_step=40,
        durable_step=20,
        loss=1 / 23,
        learning_rate=1e-3,
        step_seconds=2.0,
        eta_seconds=30.0,
    )


def test_a_living_run_shows_its_heartbeat(store: str, tmp_path: Path) -> None:
    run, client = made.run(store), FakeClient()
    made.attempt(run, Cause.RUNNING)
    pod = PodDir(tmp_path / "pod")
    pod.beat(
        Progress(
            rank=0,
            pid=1,
            section="save",
            budget_seconds=9,
            first_step=0,
            step=7,
            seconds={"productive": 3.0, "startup": 1.0},
        )
    )
    client.sightings[run.uri] = Sighting(alive=True, place="process 1", pod_dir=pod.folder)
    state = status(run, client)
    assert (state.state, state.section, state.place) == (RunState.RUNNING, "save", "process 1")
    assert state.goodput == 0.75
    assert state.attempts[0].last_step == 7
    assert training(run, client).step == 7


def test_an_incomplete_checkpoint_is_not_durable(store: str) -> None:
    run = made.run(store)
    made.checkpoint(run, 20)
    made.checkpoint(run, 40)
    run.checkpoint(40).delete("rank-0.bin")
    assert training(run, FakeClient()).durable_step == 20


def test_a_set_of_samples_that_changed_between_attempts(store: str) -> None:
    run, records = made.run(store), ["24 a", "24 a", None, "24 b", "{", "25 c"]
    for number, record in enumerate(records, start=1):
        made.attempt(run, Cause.YIELDED)
        if record is not None:
            samples, _, digest = record.partition(" ")
            text = json.dumps({"samples": samples, "digest": digest}) if digest else record
            run.store.write(samples_file(number), text.encode())
    found = status(run, FakeClient())
    assert [(one.attempt, one.samples) for one in found.sample_sets] == [(1, 24), (4, 24), (6, 25)]


def test_of_many_rows_only_the_newest_are_read(store: str) -> None:
    run = made.run(store)
    made.attempt(run, Cause.RUNNING)
    rows(run, 1, range(1, 3000))
    pace = training(run, FakeClient())
    assert (pace.step, pace.step_seconds) == (2999, 2.0)


def test_the_newest_rows_are_in_the_last_part(store: str) -> None:
    run = made.run(store)
    made.attempt(run, Cause.RUNNING)
    for part in range(1, 4):
        rows(run, 1, range(10 * part, 10 * part + 5), part)
    assert training(run, FakeClient()).step == 34


def test_a_loss_that_was_not_finite_is_unknown(store: str) -> None:
    run = made.run(store)
    made.attempt(run, Cause.USER_ERROR)
    row = {"step": 3, "loss": None, "step_seconds": 1.0}
    run.store.write("metrics/attempt-0001.jsonl", json.dumps(row).encode() + b'\n{"step": 4, "lo')
    assert (training(run, FakeClient()).step, training(run, FakeClient()).loss) == (3, None)


def test_other_jobs_have_no_steps(store: str) -> None:
    state = status(made.run(store, "curate", data={"source": "s3://b/f"}), FakeClient())
    assert state.training is None


def test_goodput_is_over_all_attempts() -> None:
    assert goodput([]) is None
    assert goodput([{"productive": 3.0}, {"startup": 1.0}, {}]) == 0.75


# --- what a cluster adds


@pytest.mark.parametrize(
    ("seen", "state", "position"),
    [
        (Sighting(alive=True, waiting="2 more GPUs", queue_position=3), RunState.QUEUED, 3),
        (Sighting(alive=True, waiting="no node", pods={"Pending": 2}), RunState.PENDING, None),
        (Sighting(alive=True, pods={"Running": 2}), RunState.STARTING, None),
    ],
)
def test_a_run_that_waits_says_why(
    store: str, seen: Sighting, state: RunState, position: int | None
) -> None:
    run, client = made.run(store), FakeClient()
    made.attempt(run, Cause.YIELDED)  # of before it was preempted
    client.sightings[run.uri] = seen
    now = status(run, client)
    assert (now.state, now.waiting, now.queue_position) == (state, seen.waiting, position)
    assert now.pods == seen.pods


def test_without_a_pod_folder_the_pulse_tells(store: str) -> None:
    run, client = made.run(store), FakeClient()
    attempt = made.attempt(run, Cause.RUNNING)
    beat = Progress(rank=0, pid=1, section="step", budget_seconds=9, first_step=0, step=12)
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=("pod-0",), progress=beat))
    client.sightings[run.uri] = Sighting(alive=True, place="JobSet stage1")
    now = status(run, client)
    assert (now.state, now.section, now.place) == (RunState.RUNNING, "step", "JobSet stage1")
    assert training(run, client).step == 12
    client.sightings.clear()  # another target: it sees nothing, and the pulse is fresh
    now = status(run, client)
    assert (now.state, now.alive, now.place) == (RunState.RUNNING, None, "pod-0")


def test_lost_steps_hours_and_cost_are_of_all_attempts(store: str) -> None:
    run = made.run(store)
    for _ in range(2):  # 100 s on 1 x 2 each
        made.attempt(run, Cause.CRASHED, lost_steps=5)
    made.attempt(run, Cause.LOST, ended_at=None)  # nobody saw it end: it is not counted
    now = status(run, FakeClient(), settings=Settings(price_per_gpu_hour=9.0))
    assert now.lost_steps == 10
    assert now.gpu_hours == pytest.approx(400 / 3600)
    assert now.cost == pytest.approx(1.0)
    free = status(run, FakeClient(), settings=Settings())
    assert (free.gpu_hours, free.cost) == (now.gpu_hours, None)
    assert status(run, FakeClient(), settings=Settings(gpus_per_node=0)).gpu_hours is None
