"""Gangs of real supervisors on loopback: real signals, fake ranks, one run directory on disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goku.config import presets
from goku.contract import env
from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import EXIT_OF, Cause, Exit
from goku.contract.pod import PodDir
from goku.contract.rundir import RunDir
from tests.goku_platform.supervisor.ports import quiet_port

pytestmark = pytest.mark.slow  # each starts several supervisors and their ranks

HERE = Path(__file__).parent
SECONDS = 60.0  # for whatever must come sooner or later, on a busy machine
LOST = EXIT_OF[Cause.LOST]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
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


class Pod:
    """One supervisor, as a controller would start it."""

    def __init__(self, run: RunDir, folder: Path, *, rank: int, nodes: int, port: int) -> None:
        self.run, self.folder = run, PodDir(folder)
        self._output = folder / "output.txt"
        place = {
            env.NODES: nodes,
            env.NODE_RANK: rank,
            env.MASTER_ADDR: "127.0.0.1",
            env.MASTER_PORT: port + 1,
            env.GANG_PORT: port,
        }
        self._environ = {**os.environ, **{name: str(value) for name, value in place.items()}}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, scenario: str) -> None:
        self.folder.clear()
        line = [sys.executable, str(HERE / "driver.py"), self.run.uri, str(self.folder.folder)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*line, scenario],
                env=self._environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the supervisor: its exit code and what it printed."""
        assert self.process is not None
        return self.process.wait(SECONDS), self.output

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def step(self) -> int:
        """The last step that its rank has told of."""
        return max((progress.step or 0 for progress in self.folder.progress()), default=0)

    @property
    def rank_pid(self) -> int:
        return next(progress.pid for progress in self.folder.progress())


class Rig:
    """One run, and gangs of pods on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, RunDir(str(folder / "rig"))
        self.ledger = Ledger(self.run)
        self.pods: list[Pod] = []
        self._every: list[Pod] = []

    def freeze(self, **health: float) -> None:
        config = presets.build(
            "sample",
            store=str(self.folder),
            size="tiny",
            name="rig",
            overrides={
                "health": {"max_fruitless_attempts": 2, **health},
                "checkpoint": {"stop_budget_seconds": SECONDS, "grace_seconds": 100},
            },
        )
        self.run.freeze(config, "test")

    def gang(self, nodes: int, *, name: str = "pods") -> list[Pod]:
        """Pods that have not started yet."""
        port = quiet_port()
        self.pods = [
            Pod(self.run, self.folder / name / str(rank), rank=rank, nodes=nodes, port=port)
            for rank in range(nodes)
        ]
        self._every += self.pods
        return self.pods

    def start(self, *scenarios: str) -> list[Pod]:
        """A gang of one pod for each scenario, all working when this returns."""
        self.freeze()
        for pod, scenario in zip(self.gang(len(scenarios)), scenarios, strict=True):
            pod.start(scenario)
        eventually(lambda: all(pod.step > 0 for pod in self.pods))
        return self.pods

    def codes(self) -> list[int]:
        return [pod.end()[0] for pod in self.pods]

    def attempt(self) -> Attempt:
        """The only one, closed."""
        (attempt,) = self.ledger.all()
        assert attempt.ended_at is not None
        wall = attempt.ended_at - attempt.started_at
        assert sum(attempt.seconds.values()) == pytest.approx(wall, abs=1e-6)
        return attempt

    def log(self, rank: int) -> str:
        store = self.run.store.child(f"logs/attempt-0001/node-{rank:04d}")
        return "".join(store.read(name).decode() for name in store.list())

    def close(self) -> None:
        for pod in self._every:
            if pod.process is not None and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_a_good_end_is_everybodys_and_recorded_once(rig: Rig) -> None:
    rig.freeze()
    for pod in rig.gang(3):
        pod.start("done")
    assert rig.codes() == [0, 0, 0]
    attempt = rig.attempt()
    assert (attempt.cause, attempt.nodes, attempt.host) == (Cause.DONE, 3, "pod-0")
    assert (attempt.first_step, attempt.last_step, attempt.lost_steps) == (0, 3, 0)
    for rank in range(3):
        assert "scenario done" in rig.log(rank)
        assert rig.log(rank).strip().splitlines()[-1].startswith("goku: attempt 1: done (exit 0)")
    pulse = rig.ledger.pulse(1)
    assert pulse is not None
    assert pulse.hosts == ("pod-0", "pod-1", "pod-2")

    for pod in rig.pods:  # by a controller that lost track
        pod.start("train")
    assert rig.codes() == [0, 0, 0]
    assert rig.attempt() == attempt


def test_a_stop_of_one_pod_stops_and_saves_all(rig: Rig) -> None:
    pods = rig.start("train", "train", "train")
    asked = time.monotonic()
    pods[1].signal(signal.SIGTERM)
    assert rig.codes() == [Exit.YIELDED] * 3
    assert time.monotonic() - asked < 15
    attempt = rig.attempt()
    assert (attempt.cause, attempt.lost_steps) == (Cause.YIELDED, 0)
    assert (attempt.last_step or 0) > 0


def test_a_stop_while_the_gang_gathers_costs_no_attempt(rig: Rig) -> None:
    rig.freeze()
    leader, member, _ = rig.gang(3)
    for pod in (leader, member):
        pod.start("done")
    eventually(lambda: "waiting for nodes" in leader.output)
    eventually(lambda: "waiting for node 0" in member.output)
    member.signal(signal.SIGTERM)
    code, output = member.end()
    assert code == Exit.YIELDED
    assert "asked to stop while waiting" in output
    leader.signal(signal.SIGTERM)
    assert leader.end()[0] == Exit.YIELDED
    assert rig.ledger.all() == []

    for pod in rig.pods:  # they come again, as a controller would have it
        pod.start("done")
    assert rig.codes() == [0, 0, 0]
    assert rig.attempt().number == 1


@pytest.mark.parametrize(
    ("scenario", "cause", "words"),
    [
        ("broken-config", Cause.USER_ERROR, "node 1 (pod-1): data.latents=x: there is no such run"),
        ("crash", Cause.CRASHED, "node 1 (pod-1): RuntimeError: the loss fell off its table"),
        ("oom", Cause.OUT_OF_MEMORY, "Lower data.pack_tokens"),
        ("killed", Cause.KILLED, "node 1 (pod-1): the program was killed by SIGKILL from outside"),
    ],
)
def test_a_bad_end_of_one_rank_is_everybodys(
    rig: Rig, scenario: str, cause: Cause, words: str
) -> None:
    rig.freeze()
    for pod, plays in zip(rig.gang(2), ("train", scenario), strict=True):
        pod.start(plays)
    assert rig.codes() == [EXIT_OF[cause]] * 2
    attempt = rig.attempt()
    assert (attempt.cause, attempt.exit_code) == (cause, EXIT_OF[cause])
    assert words in attempt.message
    assert not alive(int((rig.pods[0].folder.folder / "pid.txt").read_text()))


def test_a_hang_on_one_node_is_found_and_the_stacks_of_all_are_kept(rig: Rig) -> None:
    rig.start("train", "hang")
    assert rig.codes() == [Exit.HUNG] * 2
    attempt = rig.attempt()
    assert attempt.cause is Cause.HUNG
    assert attempt.message.startswith("node 1 (pod-1): rank 1 was silent")
    logs = rig.run.store.child("logs/attempt-0001")
    assert "fake.py" in logs.read("stacks-00000.txt").decode()
    assert "stuck_here" in logs.read("stacks-00001.txt").decode()


def test_a_vanished_supervisor_ends_the_others(rig: Rig) -> None:
    pods = rig.start("train", "train", "train")
    ranks = [pod.rank_pid for pod in pods]
    pods[1].signal(signal.SIGKILL)
    assert rig.codes() == [LOST, -signal.SIGKILL, LOST]
    attempt = rig.attempt()
    assert attempt.cause is Cause.LOST
    assert attempt.message.startswith("node 1 (pod-1): vanished")
    assert attempt.lost_steps == attempt.last_step
    assert attempt.lost_steps > 0
    assert not any(alive(pid) for pid in ranks)


def test_without_node_0_the_others_end_and_close_the_ledger(rig: Rig) -> None:
    pods = rig.start("train", "train", "train")
    ranks = [pod.rank_pid for pod in pods]
    pods[0].signal(signal.SIGKILL)
    assert rig.codes() == [-signal.SIGKILL, LOST, LOST]
    attempt = rig.attempt()
    assert attempt.cause is Cause.LOST
    assert attempt.message.startswith("node 0 (pod-0): vanished")
    assert attempt.lost_steps > 0
    assert not any(alive(pid) for pid in ranks)


def test_a_silent_supervisor_is_as_good_as_gone(rig: Rig) -> None:
    pods = rig.start("train", "train")
    pods[1].signal(signal.SIGSTOP)
    assert pods[0].end()[0] == LOST
    attempt = rig.attempt()
    assert "node 1 (pod-1): vanished (silent for" in attempt.message
    rank = pods[1].rank_pid
    pods[1].signal(signal.SIGCONT)
    assert pods[1].end()[0] == LOST
    assert not alive(rank)
    assert rig.attempt() == attempt


def test_a_late_pod_waits_for_the_next_attempt(rig: Rig) -> None:
    pods = rig.start("train", "train")
    pods[1].signal(signal.SIGKILL)
    pods[1].end()
    pods[1].start("done")  # its controller is faster than node 0
    assert pods[0].end()[0] == LOST
    pods[0].start("done")
    assert rig.codes() == [0, 0]
    assert [attempt.cause for attempt in rig.ledger.all()] == [Cause.LOST, Cause.DONE]


def test_of_two_gangs_on_one_run_the_older_gives_way_for_good(rig: Rig) -> None:
    older = rig.start("train", "train")
    newer = rig.gang(2, name="newer")
    for pod in newer:
        pod.start("train")
    assert [pod.end()[0] for pod in older] == [Exit.SUPERSEDED] * 2
    eventually(lambda: all(pod.step > 0 for pod in newer))
    newer[0].signal(signal.SIGTERM)
    assert rig.codes() == [Exit.YIELDED] * 2
    first, second = rig.ledger.all()
    assert (first.cause, second.cause) == (Cause.SUPERSEDED, Cause.YIELDED)
    assert "attempt 2 has taken over" in first.message


def test_a_gang_without_progress_gives_up_together_and_once(rig: Rig) -> None:
    rig.freeze()
    rig.gang(2)
    for _ in range(2):
        for pod in rig.pods:
            pod.start("crash")
        assert rig.codes() == [EXIT_OF[Cause.CRASHED]] * 2
    for _ in range(2):  # the second time by a controller that does not know 93
        for pod in rig.pods:
            pod.start("train")
        for code, output in [pod.end() for pod in rig.pods]:
            assert code == Exit.NO_PROGRESS
            assert "2 attempts in a row made nothing durable" in output
            assert "scenario" not in output
    assert [attempt.cause for attempt in rig.ledger.all()][2:] == [Cause.NO_PROGRESS]


def test_a_gang_that_is_never_whole_leaves_and_names_who_is_missing(rig: Rig) -> None:
    rig.freeze(start_budget_seconds=15.0)
    leader, member, _ = rig.gang(3)
    member.start("done")
    eventually(lambda: "waiting for node 0" in member.output)
    leader.start("done")
    code, output = leader.end()
    assert code == EXIT_OF[Cause.CRASHED]
    assert "nodes 2 of 3 did not come within 15 s" in output
    assert member.end()[0] == EXIT_OF[Cause.CRASHED]
    assert rig.ledger.all() == []
