"""The main job on one machine: footage, clips, three stages, a preemption, a resume, a sample.

Everything runs through the `goku-platform` command, as a user would run it; this script only
waits, sends the one SIGTERM that a cluster would send, and checks what the ledger says of it.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path(os.environ.get("GOKU_DEMO_DIR", ROOT / "demo"))
FOOTAGE = DEMO / "footage"
CLI = Path(sys.executable).with_name("goku-platform")
ENVIRONMENT = {
    **os.environ,
    "GOKU_STORE": str(DEMO / "runs"),
    "XDG_STATE_HOME": str(DEMO / "state"),
}
PREEMPT_AT_STEP = 12
STARTED = time.monotonic()


def main() -> None:
    if (DEMO / "runs").exists():
        sys.exit(f"error: {DEMO / 'runs'} holds an earlier demo. Remove it: rm -r {DEMO / 'runs'}")
    say("1/8  Real footage")
    run([sys.executable, str(ROOT / "scripts" / "footage.py"), str(FOOTAGE)])
    say("2/8  Curate: gates, shots, motion, clips")
    goku("launch", "curate", "--size", "tiny", "--set", f"data.source={FOOTAGE}", "--wait")
    say("3/8  Encode the clips once; later stages read latents instead of pixels")
    goku("launch", "encode", "--size", "tiny", "--wait")
    say("4/8  Stage 1: images and text, encoded online")
    goku("launch", "stage1", "--size", "tiny", "--set", "data.latents=none", "--wait")
    say("5/8  Stage 2: images and video together, preempted on the way")
    goku("launch", "stage2", "--size", "tiny")
    preempt("stage2")
    say("6/8  Resume from the checkpoint")
    goku("resume", "stage2", "--wait")
    prove("stage2")
    say("7/8  Stage 3: fine-tune for video")
    goku("launch", "stage3", "--size", "tiny", "--wait")
    say("8/8  Sample an image and a video")
    goku("launch", "sample", "--size", "tiny", "--wait")
    farewell()


def preempt(name: str) -> None:
    """Wait for the middle of the run, scrape its metrics once, and send SIGTERM as a node would."""
    status = wait_for(name, lambda status: step_of(status) >= PREEMPT_AT_STEP)
    show_metrics(status["metrics_url"])
    print(f"\n>>> SIGTERM to the supervisor, process {status['pid']}\n", flush=True)
    os.kill(status["pid"], signal.SIGTERM)
    wait_for(name, lambda status: not status["alive"])
    goku("status", name)


def prove(name: str) -> None:
    """What the first attempt finished must be what the second began with."""
    first, second = read_status(name)["attempts"][:2]
    whole = (
        first["cause"] == "yielded"
        and first["last_step"] == first["durable_step"] == second["first_step"]
        and first["lost_steps"] == 0
        and second["cause"] == "done"
    )
    line = (
        f"attempt 1 finished step {first['last_step']} and saved step {first['durable_step']}; "
        f"attempt 2 began after step {second['first_step']} and finished {second['last_step']}"
    )
    if not whole:
        sys.exit(f"FAILED: {line}")
    print(f"\nPROOF  {line}: no step was lost, none was done twice.")


def farewell() -> None:
    samples = sorted((DEMO / "runs" / "sample" / "samples").iterdir())
    say(f"Done in {time.monotonic() - STARTED:.0f} s. Samples of the tiny model:")
    for path in samples:
        print(f"  {path}")
    print(
        "\nWhere to look next:\n"
        f"  GOKU_STORE={DEMO / 'runs'} XDG_STATE_HOME={DEMO / 'state'} {CLI} status stage2\n"
        "  ... ckpt ls stage2, ckpt verify stage2, logs stage2, render stage2 --size 8b, presets\n"
        "  docs/architecture.md: the floors; docs/extending.md: change the model, add a stage"
    )


def wait_for(name: str, ready: Any, *, timeout: float = 180) -> dict[str, Any]:
    deadline = time.monotonic() + timeout
    shown = None
    while time.monotonic() < deadline:
        status = read_status(name)
        if (status["state"], step_of(status)) != shown:
            shown = (status["state"], step_of(status))
            print(f"  {name}: {status['state']}, step {step_of(status)}", flush=True)
        if ready(status):
            return status
        if not status["alive"]:
            sys.exit(f"FAILED: {name} ended early: {status['state']}")
        time.sleep(0.1)
    sys.exit(f"FAILED: {name} took more than {timeout:g} s")


def read_status(name: str) -> dict[str, Any]:
    output = subprocess.run(
        [CLI, "status", name, "--json"], env=ENVIRONMENT, check=True, capture_output=True
    ).stdout
    status: dict[str, Any] = json.loads(output)
    return status


def step_of(status: dict[str, Any]) -> int:
    return status["training"]["step"] or 0


def show_metrics(url: str) -> None:
    with urllib.request.urlopen(url, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    print(f"\n{url}")
    for line in lines:
        if line.startswith("goku_") and "_bucket" not in line and "_created" not in line:
            name, value = line.rsplit(" ", 1)
            print(f"  {name:<95} {float(value):>16,.4g}")


def goku(*arguments: str) -> None:
    print(f"$ goku-platform {' '.join(arguments)}", flush=True)
    run([str(CLI), *arguments])


def run(command: list[str]) -> None:
    ended = subprocess.run(command, env=ENVIRONMENT, check=False)
    if ended.returncode:
        sys.exit(f"FAILED with exit code {ended.returncode}: {' '.join(command)}")


def say(text: str) -> None:
    print(f"\n=== {text}  [{time.monotonic() - STARTED:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
