"""Command line, supervisor, torchrun, DeepSpeed and store together, as a user runs them.

One straight run and one that is preempted by SIGTERM and resumed: the same loss at every step and
the same bytes at the end.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from goku.contract.attempts import Ledger
from goku.contract.exits import Cause, Exit
from goku.contract.manifest import verify
from goku.contract.rundir import RunDir
from tests.goku.trainer import world

pytestmark = pytest.mark.slow

STEPS = 80
SETTINGS = (
    f"training.steps={STEPS}",
    "training.init_from=none",
    "training.validation_samples=2",
    "training.validation_interval_steps=50",
    "data.packs_per_step=2",
)


class Place:
    """A store and the command line on it."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "runs"
        self.environment = {
            **os.environ,
            "GOKU_STORE": str(self.store),
            "XDG_STATE_HOME": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
        }

    def goku(self, *arguments: str, check: bool = True) -> str:
        command = [str(Path(sys.executable).with_name("goku-platform")), *arguments]
        ended = subprocess.run(
            command, env=self.environment, text=True, capture_output=True, timeout=240
        )
        assert not check or ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def launch(self, name: str, *more: str) -> str:
        settings = [part for setting in SETTINGS for part in ("--set", setting)]
        return self.goku("launch", "stage2", "--size", "tiny", "--name", name, *settings, *more)

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.goku("status", name, "--json"))
        return found

    def until(self, name: str, what: str, ready: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            status = self.status(name)
            if ready(status):
                return status
            time.sleep(0.3)
        pytest.fail(f"{name}: never {what}\n{self.goku('logs', name)}")

    def run(self, name: str) -> RunDir:
        return RunDir(str(self.store / name))

    def losses(self, name: str) -> dict[int, float]:
        """Loss by step over all attempts; a step that was done twice must not be there."""
        found: dict[int, float] = {}
        for path in sorted((self.store / name / "metrics").glob("attempt-????.jsonl")):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                assert row["step"] not in found
                found[int(row["step"])] = row["loss"]
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    world.encode(place.store)
    return place


def test_a_preempted_run_ends_with_the_bytes_of_an_undisturbed_one(place: Place) -> None:
    place.launch("straight", "--wait")
    place.launch("broken")
    status = place.until("broken", "ten steps", lambda s: (s["training"]["step"] or 0) >= 10)
    os.kill(status["pid"], signal.SIGTERM)
    place.until("broken", "stopped", lambda s: not s["alive"])

    first = Ledger(place.run("broken")).all()[0]
    assert first.cause is Cause.YIELDED
    assert first.exit_code == Exit.YIELDED
    assert 10 <= (first.last_step or 0) < STEPS
    assert first.last_step == first.durable_step
    assert first.ended_at is not None
    assert sum(first.seconds.values()) == pytest.approx(first.ended_at - first.started_at)

    place.goku("resume", "broken", "--wait")
    second = Ledger(place.run("broken")).all()[1]
    assert second.cause is Cause.DONE
    assert second.first_step == first.last_step
    assert second.lost_steps == 0

    assert place.losses("broken") == place.losses("straight")
    assert len(place.losses("straight")) == STEPS
    assert _bytes(place.run("broken")) == _bytes(place.run("straight"))
    assert "all as written" in place.goku("ckpt", "verify", "broken")


def test_a_stop_during_start_up_and_a_flipped_byte(place: Place) -> None:
    place.launch("early", "--set", "training.steps=3")
    status = place.until("early", "alive", lambda s: s["alive"] and s["attempts"])
    os.kill(status["pid"], signal.SIGTERM)  # the ranks are importing
    place.until("early", "stopped", lambda s: not s["alive"])
    attempt = Ledger(place.run("early")).all()[0]
    assert (attempt.cause, attempt.exit_code, attempt.last_step) == (Cause.YIELDED, 143, 0)

    payload = next((place.store / "early/checkpoints/step-00000000").glob("*rank-00001*"))
    whole = payload.read_bytes()
    payload.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = subprocess.run(
        [Path(sys.executable).with_name("goku-platform"), "resume", "early", "--wait"],
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert refused.returncode == Exit.USER_ERROR
    assert Ledger(place.run("early")).all()[1].cause is Cause.USER_ERROR
    assert payload.name in Ledger(place.run("early")).all()[1].message

    payload.write_bytes(whole)
    place.goku("resume", "early", "--wait")
    assert place.status("early")["state"] == "done"


def _bytes(run: RunDir) -> dict[str, list[int]]:
    """Checksums of every tensor of the last checkpoint, which is read and verified."""
    manifest = run.latest()
    assert manifest is not None
    assert list(verify(run.checkpoint(manifest.step), manifest)) == []
    return {name: [p.crc32 for p in entry.pieces] for name, entry in manifest.tensors.items()}
