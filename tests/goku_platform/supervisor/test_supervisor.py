"""The whole supervisor on real processes: a fake rank, real signals, a run directory on disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goku.config import presets
from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import EXIT_OF, Cause, Exit
from goku.contract.pod import PodDir
from goku.contract.rundir import RunDir

pytestmark = pytest.mark.slow  # each starts a supervisor and a rank: about two seconds

HERE = Path(__file__).parent
SECONDS = 60.0  # for whatever must come sooner or later, on a busy machine
HEALTH = {"max_fruitless_attempts": 2}
PARALLEL = {"nodes": 1, "processes_per_node": 2}


def eventually(condition: Callable[[], object], *, seconds: float = SECONDS) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that waits for its parent does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Rig:
    """One run on disk and the supervisors started on it."""

    def __init__(self, folder: Path, preset: str) -> None:
        self.preset, self.folder = preset, folder
        self.run = RunDir(str(folder / "rig"))
        self.ledger = Ledger(self.run)
        self.pod = PodDir(folder / "pod")
        self.process: subprocess.Popen[str] | None = None

    def start(self, scenario: str, *extra: str, stop_budget: float = SECONDS) -> None:
        config = presets.build(
            self.preset,
            store=str(self.folder),
            size="tiny",
            name="rig",
            overrides={
                "health": HEALTH,
                "parallel": PARALLEL,
                "checkpoint": {"stop_budget_seconds": stop_budget, "grace_seconds": 100},
            },
        )
        self.run.freeze(config, "test")
        self.pod.clear()  # so that a test that waits for a rank does not meet the last one's files
        line = [sys.executable, str(HERE / "driver.py"), self.run.uri, str(self.pod.folder)]
        self.process = subprocess.Popen(
            [*line, scenario, *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the supervisor: its exit code and what it printed."""
        assert self.process is not None
        output, _ = self.process.communicate(timeout=2 * SECONDS)
        return self.process.returncode, output

    def step(self) -> int:
        """The last step that rank 0 has told of."""
        return max((progress.step or 0 for progress in self.pod.progress()), default=0)

    def section(self) -> str | None:
        return next((progress.section for progress in self.pod.progress()), None)

    def attempt(self) -> Attempt:
        last = self.ledger.last()
        assert last is not None
        return last

    def log(self) -> str:
        """What the store has of the last attempt's output."""
        store = self.run.store.child(f"logs/attempt-{self.attempt().number:04d}/node-0000")
        return "".join(store.read(name).decode() for name in store.list())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from _rig(tmp_path, "sample")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Rig]:
    """A run whose two ranks are started by the real torchrun."""
    yield from _rig(tmp_path, "stage1")


def _rig(folder: Path, preset: str) -> Iterator[Rig]:
    rig = Rig(folder, preset)
    yield rig
    if rig.process is not None and rig.process.poll() is None:
        rig.process.kill()
        rig.process.communicate()


def check_seconds(attempt: Attempt) -> None:
    assert attempt.ended_at is not None
    wall = attempt.ended_at - attempt.started_at
    assert sum(attempt.seconds.values()) == pytest.approx(wall, abs=1e-6)
    assert min(attempt.seconds.values()) >= 0


def test_a_good_end_is_recorded_with_steps_seconds_and_log(rig: Rig) -> None:
    rig.start("done")
    code, output = rig.end()
    attempt = rig.attempt()
    assert (code, attempt.cause, attempt.exit_code) == (0, Cause.DONE, 0)
    assert (attempt.first_step, attempt.last_step, attempt.durable_step) == (0, 3, 3)
    assert attempt.lost_steps == 0
    check_seconds(attempt)
    assert attempt.seconds["productive"] >= 3 * 0.02
    assert attempt.seconds["startup"] > 0.05  # before the rank's clock existed
    assert "scenario done" in output
    assert "scenario done" in rig.log()
    assert rig.log().strip().splitlines()[-1].startswith("goku: attempt 1: done (exit 0)")


@pytest.mark.parametrize(
    ("scenario", "cause", "words"),
    [
        ("broken-config", Cause.USER_ERROR, "data.latents=x: there is no such run"),
        ("crash", Cause.CRASHED, "RuntimeError: the loss fell off its table"),
        ("oom", Cause.OUT_OF_MEMORY, "MemoryError"),
        ("killed", Cause.KILLED, "SIGKILL"),
    ],
)
def test_a_bad_end_has_its_cause_code_and_message(
    rig: Rig, scenario: str, cause: Cause, words: str
) -> None:
    rig.start(scenario)
    code, output = rig.end()
    attempt = rig.attempt()
    assert (attempt.cause, code, attempt.exit_code) == (cause, EXIT_OF[cause], EXIT_OF[cause])
    assert words in attempt.message
    assert "\n" not in attempt.message
    assert words in output
    check_seconds(attempt)
    assert ("Traceback" in output) == (scenario in ("crash", "oom"))


def test_a_killed_rank_loses_the_steps_after_its_last_save(rig: Rig) -> None:
    rig.start("killed")
    rig.end()
    attempt = rig.attempt()
    assert (attempt.last_step, attempt.durable_step, attempt.lost_steps) == (3, 2, 1)


def test_a_hang_is_ended_with_its_stacks_kept(rig: Rig) -> None:
    rig.start("hang")
    code, _ = rig.end()
    attempt = rig.attempt()
    assert (code, attempt.cause) == (Exit.HUNG, Cause.HUNG)
    assert "rank 0" in attempt.message
    assert "'step'" in attempt.message
    check_seconds(attempt)
    assert attempt.seconds["hang"] >= 0.5
    stacks = rig.run.store.read("logs/attempt-0001/stacks-00000.txt").decode()
    assert "stuck_here" in stacks
    assert not alive(int((rig.pod.folder / "pid.txt").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_between_steps_is_saved_and_yields(rig: Rig, number: int) -> None:
    rig.start("train")
    eventually(lambda: rig.step() > 2)
    rig.signal(number)
    time.sleep(0.05)
    rig.signal(signal.SIGTERM)  # a second one changes nothing
    code, _ = rig.end()
    attempt = rig.attempt()
    assert (code, attempt.cause) == (Exit.YIELDED, Cause.YIELDED)
    assert attempt.last_step == attempt.durable_step
    assert attempt.last_step is not None
    assert attempt.last_step > 2
    assert attempt.lost_steps == 0
    check_seconds(attempt)


def test_a_stop_during_start_up_yields(rig: Rig) -> None:
    rig.start("starting")
    eventually(lambda: rig.section() == "start")
    rig.signal(signal.SIGTERM)
    code, _ = rig.end()
    assert (code, rig.attempt().cause) == (Exit.YIELDED, Cause.YIELDED)


def test_a_stop_during_a_save_yields(rig: Rig) -> None:
    rig.start("saving")
    eventually(lambda: rig.step() > 0)
    rig.pod.request_stop()  # the ranks leave their steps and save ...
    eventually(lambda: rig.section() == "save")
    rig.signal(signal.SIGTERM)  # ... and the pod is asked only now
    code, _ = rig.end()
    assert (code, rig.attempt().cause) == (Exit.YIELDED, Cause.YIELDED)
    assert rig.attempt().lost_steps == 0


def test_a_stop_before_the_program_starts_yields_without_it(rig: Rig) -> None:
    rig.start("train", "asked")
    code, output = rig.end()
    assert (code, rig.attempt().cause) == (Exit.YIELDED, Cause.YIELDED)
    assert "scenario" not in output
    check_seconds(rig.attempt())


def test_leaving_without_a_durable_last_step_is_not_a_clean_stop(rig: Rig) -> None:
    rig.start("careless")
    eventually(lambda: rig.step() > 0)
    rig.signal(signal.SIGTERM)
    code, _ = rig.end()
    attempt = rig.attempt()
    assert (code, attempt.cause) == (Exit.YIELDED, Cause.UNSAVED)
    assert attempt.last_step is not None
    assert attempt.lost_steps == attempt.last_step > 0


def test_a_stop_past_its_budget_ends_everything(tmp_path: Path, rig: Rig) -> None:
    rig.start("deaf", stop_budget=0.5)
    eventually(lambda: rig.step() > 0)
    asked = time.monotonic()
    rig.signal(signal.SIGTERM)
    code, _ = rig.end()
    assert time.monotonic() - asked >= 0.5
    assert (code, rig.attempt().cause) == (Exit.YIELDED, Cause.UNSAVED)
    assert "within 0.5 s" in rig.attempt().message
    assert not alive(int((rig.pod.folder / "pid.txt").read_text()))


def test_a_data_worker_hears_no_signal_and_is_gone_in_the_end(rig: Rig) -> None:
    rig.start("worker")
    eventually(lambda: rig.step() > 0)
    rig.signal(signal.SIGTERM)
    code, _ = rig.end()
    assert code == Exit.YIELDED
    notes = (rig.pod.folder / "worker.txt").read_text()
    assert "heard" not in notes
    assert not alive(int(notes.split()[1]))


def test_a_killed_supervisor_leaves_nothing_running(rig: Rig) -> None:
    rig.start("worker")
    eventually(lambda: rig.step() > 0)
    rank = int((rig.pod.folder / "pid.txt").read_text())
    worker = int((rig.pod.folder / "worker.txt").read_text().split()[1])
    assert alive(rank)
    assert alive(worker)
    rig.signal(signal.SIGKILL)
    rig.end()
    eventually(lambda: not alive(rank) and not alive(worker))
    assert rig.attempt().cause is Cause.RUNNING  # nobody was left to say otherwise


def test_attempts_without_progress_end_the_run(rig: Rig) -> None:
    for _ in range(2):
        rig.start("crash")
        assert rig.end()[0] == EXIT_OF[Cause.CRASHED]
    rig.start("train")
    code, output = rig.end()
    attempt = rig.attempt()
    assert (code, attempt.cause, attempt.number) == (Exit.NO_PROGRESS, Cause.NO_PROGRESS, 3)
    assert "2 attempts in a row made nothing durable" in attempt.message
    assert "fell off its table" in attempt.message
    assert "scenario" not in output
    check_seconds(attempt)

    rig.start("train")  # by a controller that does not know what 93 means
    code, output = rig.end()
    assert code == Exit.NO_PROGRESS
    assert "made nothing durable" in output
    assert rig.attempt() == attempt  # not recorded again

    rig.ledger.allow()  # a person has mended it: the count begins anew
    rig.start("crash")
    assert rig.end()[0] == EXIT_OF[Cause.CRASHED]
    rig.start("done")
    assert rig.end()[0] == 0
    assert rig.attempt().number == 5


@pytest.mark.parametrize(("scenario", "code"), [("done", 0), ("broken-config", 1)])
def test_a_final_end_stays_the_end(rig: Rig, scenario: str, code: int) -> None:
    rig.start(scenario)
    assert rig.end()[0] == code
    ended = rig.attempt()
    rig.start("train")
    again, output = rig.end()
    assert (again, rig.attempt()) == (code, ended)
    assert (ended.message or "the run is done") in output


def test_a_store_that_takes_no_logs_does_not_end_training(rig: Rig) -> None:
    rig.run.store.write("logs", b"in the way")
    rig.start("done")
    code, output = rig.end()
    assert code == 0
    assert output.count("does not take the log") == 1


def test_the_program_refuses_an_empty_environment(tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GOKU_")}
    line = [sys.executable, "-m", "goku_platform.supervisor"]
    for extra, code, words in (
        ({}, Exit.USAGE, "GOKU_RUN: it is not set"),
        ({"GOKU_RUN": str(tmp_path / "none")}, Exit.USER_ERROR, "run.json"),
    ):
        ended = subprocess.run(line, env=bare | extra, capture_output=True, text=True)
        assert ended.returncode == code
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["run.json", "attempts/0001.json", "fence", "promoted"])
def test_a_damaged_record_is_not_tried_again(tmp_path: Path, name: str) -> None:
    run = RunDir(str(tmp_path / "runs" / "sample"))
    run.freeze(presets.build("sample", store=str(tmp_path / "runs"), size="tiny"), "test")
    Ledger(run).open(host="pod-0", nodes=1, processes_per_node=1)
    run.store.write(name, b"{")
    environ = {**os.environ, "GOKU_RUN": run.uri, "GOKU_POD_DIR": str(tmp_path / "pod")}
    line = [sys.executable, "-m", "goku_platform.supervisor"]
    ended = subprocess.run(line, env=environ, capture_output=True, text=True)
    assert ended.returncode == Exit.USER_ERROR
    assert ended.stderr.startswith(f"goku: error: {run.uri}/{name}: its bytes have changed. ")
    assert "Traceback" not in ended.stderr


def pids(rig: Rig) -> list[int]:
    return [progress.pid for progress in rig.pod.progress()]


def test_a_group_that_is_stopped_saves_and_yields(group: Rig) -> None:
    group.start("train")
    eventually(lambda: len(pids(group)) == 2 and group.step() > 2)
    group.signal(signal.SIGTERM)
    code, output = group.end()
    assert (code, group.attempt().cause) == (Exit.YIELDED, Cause.YIELDED)
    assert "[rank0]:scenario train" in output
    assert "[rank1]:scenario train" in group.log()
    assert (group.pod.folder / "outcome.json").read_text() == "[]"


def test_a_rank_that_waits_for_a_failed_one_is_not_waited_for(group: Rig) -> None:
    group.start("one-crashes")
    code, output = group.end()
    attempt = group.attempt()
    assert (code, attempt.cause) == (EXIT_OF[Cause.CRASHED], Cause.CRASHED)
    assert attempt.message == "rank 1: RuntimeError: rank 1 broke"
    assert "forcefully" not in output  # what torchrun would do to rank 0, 30 seconds later


def test_a_killed_supervisor_takes_its_group_along(group: Rig) -> None:
    group.start("train")
    eventually(lambda: len(pids(group)) == 2)
    ranks = pids(group)
    group.signal(signal.SIGKILL)
    group.end()
    eventually(lambda: not any(alive(pid) for pid in ranks))
