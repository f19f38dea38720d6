"""Two pods on loopback with the real apps. Training: stopped, hurt, resumed, the same bytes at the
end. Encoding: each pod its share.

What a controller does is done by hand: both supervisors are started, and started again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from goku.config import RunConfig, presets
from goku.config.overrides import parse
from goku.contract import env
from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import EXIT_OF, Cause, Exit
from goku.contract.manifest import verify
from goku.contract.pod import PodDir
from goku.contract.rundir import CLIPS, LATENTS, RunDir
from goku.contract.store import Store
from goku.data.source import CachedSource
from goku.trainer.loop import train
from tests.goku.data.curated import write_curated
from tests.goku.trainer import world
from tests.goku_platform.supervisor.ports import quiet_port
from tests.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NODES = 2
SECONDS = 300.0  # for a start of two trainers on a machine that does other things too
SETTINGS = (
    "training.steps=80",
    "data.packs_per_step=2",
    "training.init_from=none",
    "training.validation_samples=0",
    f"parallel.nodes={NODES}",
    "parallel.processes_per_node=1",
    "health.start_budget_seconds=250",
    "checkpoint.interval_steps=1000",  # what a killed node loses depends on no save in between
)


def configured(folder: Path, name: str) -> RunConfig:
    return presets.build(
        "stage2", store=str(folder), size="tiny", name=name, overrides=parse(SETTINGS)
    )


def undisturbed(folder: Path) -> None:
    """On a rank of its own: the whole run, and nobody who could stop it."""
    assert train(world.trainer_of(configured(folder, "straight"), folder / "pod")) is Cause.DONE


class Gang:
    """The pods of one run."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        name = config.name
        self.run = RunDir(f"{folder}/{name}")
        self.run.freeze(config, "test")
        self.pods = [PodDir(folder / f"{name}-pod-{rank}") for rank in range(NODES)]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        master, port = quiet_port(), quiet_port()
        for rank, pod in enumerate(self.pods):
            pod.clear()
            place = {
                env.RUN: self.run.uri,
                env.POD_DIR: pod.folder,
                env.NODES: NODES,
                env.NODE_RANK: rank,
                env.MASTER_ADDR: "127.0.0.1",
                env.MASTER_PORT: master,
                env.GANG_PORT: port,
                "OMP_NUM_THREADS": 1,
            }
            with (pod.folder / "output.txt").open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "goku_platform.supervisor"],
                    env={**os.environ, **{name: str(value) for name, value in place.items()}},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not ready():
            assert time.monotonic() < deadline, self.output()
            assert all(process.poll() is None for process in self.processes), self.output()
            time.sleep(0.05)

    def step(self, rank: int = 0) -> int:
        return max((beat.step or 0 for beat in self.pods[rank].progress()), default=0)

    def end(self) -> list[int]:
        codes = [process.wait(SECONDS) for process in self.processes]
        self.processes.clear()
        return codes

    def output(self) -> str:
        return "\n".join((pod.folder / "output.txt").read_text() for pod in self.pods)

    def last(self) -> Attempt:
        last = Ledger(self.run).last()
        assert last is not None
        return last

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def bytes(self) -> dict[str, list[int]]:
        """Checksums of every tensor of the last checkpoint, which is read and verified."""
        manifest = self.run.latest()
        assert manifest is not None
        assert list(verify(self.run.checkpoint(manifest.step), manifest)) == []
        return {name: [p.crc32 for p in entry.pieces] for name, entry in manifest.tensors.items()}


def test_a_gang_that_is_stopped_and_hurt_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    world.encode(tmp_path)
    run_ranks(undisturbed, NODES, tmp_path)
    straight, broken = (
        Gang(tmp_path, configured(tmp_path, "straight")),
        Gang(tmp_path, configured(tmp_path, "broken")),
    )
    try:
        broken.start()
        broken.until(lambda: broken.step() >= 10)
        broken.processes[1].send_signal(signal.SIGTERM)
        assert broken.end() == [Exit.YIELDED] * NODES, broken.output()
        first = broken.last()
        assert (first.cause, first.lost_steps) == (Cause.YIELDED, 0)

        broken.start()
        broken.until(lambda: broken.step(1) >= (first.last_step or 0) + 5)
        os.kill(broken.pods[1].progress()[0].pid, signal.SIGKILL)
        assert broken.end() == [EXIT_OF[Cause.KILLED]] * NODES, broken.output()
        second = broken.last()
        assert (second.cause, second.first_step) == (Cause.KILLED, first.last_step)
        assert second.message.startswith("node 1 ")
        assert second.lost_steps >= 5

        broken.start()
        assert broken.end() == [Exit.DONE] * NODES, broken.output()
        third = broken.last()
        assert (third.number, third.cause, third.last_step) == (3, Cause.DONE, 80)
    finally:
        broken.kill()
    assert broken.bytes() == straight.bytes()


def test_two_nodes_encode_each_their_share(tmp_path: Path) -> None:
    write_curated(Store(f"{tmp_path}/curate/{CLIPS}"))
    spread = {"parallel": {"nodes": NODES, "processes_per_node": 2}}
    gang = Gang(
        tmp_path, presets.build("encode", store=str(tmp_path), size="tiny", overrides=spread)
    )
    try:
        gang.start()
        assert gang.end() == [Exit.DONE] * NODES, gang.output()
    finally:
        gang.kill()
    assert gang.output().count("of 5 clips to encode") == 2 * NODES
    found = CachedSource(f"{gang.run.uri}/{LATENTS}", latent_channels=4, text_width=64)
    assert [entry.id for entry in found.entries] == ["i0", "i1", "v0", "v1", "v2"]
