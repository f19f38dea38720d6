"""The command line against the true cluster, each call a process of its own: what a user goes
through with a run from `doctor` to `delete`, and that an interrupt leaves nothing half done."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from goku.contract.exits import Cause, Exit
from tests.cluster.tenant import CLI, Tenant, hear_ctrl_c


def listed(tenant: Tenant, name: str) -> dict[str, Any]:
    lines: list[dict[str, Any]] = json.loads(tenant.goku("list", "--json"))
    return next(line for line in lines if line["name"] == name)


def test_doctor_finds_nothing_and_says_what_it_looked_at(tenant: Tenant) -> None:
    checks = json.loads(tenant.goku("doctor", "--json"))
    assert {check["name"] for check in checks} >= {"kind", "queue", "store"}
    assert not [check for check in checks if check["ok"] is False]


def test_doctor_names_the_queue_that_is_not_there(tenant: Tenant) -> None:
    ended = tenant.with_profile(queue="nowhere").start("doctor")
    assert ended.returncode == Exit.USER_ERROR
    assert "nowhere" in next(line for line in ended.stdout.splitlines() if "failed" in line)


def test_a_diff_shows_the_job_and_makes_nothing(tenant: Tenant) -> None:
    arguments = [one for one in tenant.launch_arguments("shown") if one != "--yes"]
    shown = tenant.goku(*arguments, "--diff")
    assert "+kind: PyTorchJob" in shown
    assert not tenant.run("shown").exists()
    assert not tenant.pods("shown")


def test_without_a_terminal_it_wants_agreement(tenant: Tenant) -> None:
    arguments = [one for one in tenant.launch_arguments("unasked") if one != "--yes"]
    refused = tenant.start(*arguments)
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    assert "queue" in refused.stdout
    assert not tenant.run("unasked").exists()


def test_a_watch_follows_a_run_to_its_end(tenant: Tenant) -> None:
    """Stopped, resumed on one node as another kind of job, watched to its end, and deleted."""
    name = "followed"
    tenant.launch(name, steps=150, interval=100)
    tenant.reach(name, 3)
    tenant.goku("stop", name)
    (first,) = tenant.attempts(name)
    assert (first.cause, first.last_step) == (Cause.YIELDED, first.durable_step)
    assert tenant.status(name)["state"] == "stopped"
    world = ("--set", "parallel.nodes=1", "--kind", "job")
    begun = json.loads(tenant.goku("resume", name, *world, "--json"))
    assert (begun["from_step"], begun["kind"], begun["nodes"]) == (first.durable_step, "job", 1)
    place = tenant.with_profile(kind="job")
    lines = place.goku("status", name, "--watch", "--json").splitlines()
    states = [json.loads(line)["state"] for line in lines]
    assert states[-1] == "done"
    assert "running" in states
    assert tenant.attempts(name)[1].first_step == first.durable_step
    assert "goku:" in tenant.goku("logs", name, "--previous")  # its pods are gone
    tenant.goku("delete", name, "--checkpoints", "--yes")
    assert tenant.run(name).steps() == []
    tenant.goku("delete", name, "--all", "--yes")
    assert not tenant.run(name).exists()


@pytest.mark.parametrize("delay", [0.5, 1.5, 2.5, 3.5, 4.5])
def test_ctrl_c_leaves_a_whole_launch_or_none(tenant: Tenant, delay: float) -> None:
    name = f"broken-{int(delay * 10)}"
    command = [str(CLI), *tenant.launch_arguments(name), "--profile", str(tenant.profile())]
    launching = subprocess.Popen(
        command,
        env=tenant.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=hear_ctrl_c,
    )
    time.sleep(delay)
    launching.send_signal(signal.SIGINT)
    printed, _ = launching.communicate(timeout=60)
    jobs = json.loads(
        tenant.cluster.kubectl("get", "pytorchjobs", "-n", tenant.namespace, "-o", "json")
    )
    there = name in [job["metadata"]["name"] for job in jobs["items"]]
    assert there == tenant.run(name).exists(), printed
    assert there or launching.returncode != 0
    if there:
        tenant.goku("stop", name, "--now")
    else:
        tenant.launch(name)  # as if nothing had happened
        tenant.goku("stop", name, "--now")


def test_an_api_server_that_does_not_answer_costs_the_timeout(tenant: Tenant) -> None:
    """A port that accepts and says nothing, where the API server should be."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kubeconfig = tenant.folder / "silent"
        config = yaml.safe_load(tenant.cluster.kubeconfig.read_text())
        for one in config["clusters"]:
            one["cluster"]["server"] = f"https://127.0.0.1:{silent.getsockname()[1]}"
        kubeconfig.write_text(yaml.safe_dump(config))
        environment = tenant.environment | {"KUBECONFIG": str(kubeconfig)}
        began = time.monotonic()
        ended = subprocess.run(
            [str(CLI), "list", "--timeout", "3", "--profile", str(tenant.profile())],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert time.monotonic() - began < 15


# --- beside a run that holds the whole queue: last, so that it is in nobody's way


@pytest.fixture(scope="module")
def long_run(tenant: Tenant) -> Iterator[str]:
    """A run of two pods that holds the whole queue and lasts as long as the tests need it."""
    name = "verbs"
    tenant.launch(name, steps=100_000, interval=1000)
    tenant.reach(name, 2)
    tenant.slow_down(name)
    yield name
    tenant.start("stop", name, "--now")


def test_a_running_run_tells_everything(tenant: Tenant, long_run: str) -> None:
    state = tenant.until("a step in a pulse", lambda: _at_step_2(tenant.status(long_run)))
    assert (state["state"], state["alive"], state["pods"]) == ("running", True, {"Running": 2})
    assert state["section"] in ("step", "save", "validate")
    assert listed(tenant, long_run)["state"] == "running"
    assert "[rank" in tenant.goku("logs", long_run) or "step" in tenant.goku("logs", long_run)
    assert "goku:" in tenant.goku("logs", long_run)
    assert "Pod/" in tenant.goku("events", long_run)


def _at_step_2(state: dict[str, Any]) -> dict[str, Any] | None:
    return state if (state["training"]["step"] or 0) >= 2 else None


def test_the_same_run_twice_is_refused(tenant: Tenant, long_run: str) -> None:
    for verb in (tenant.launch_arguments(long_run, steps=100_000), ["resume", long_run]):
        refused = tenant.start(*verb)
        assert (refused.returncode, "it is running" in refused.stderr) == (1, True)
    refused = tenant.start("delete", long_run, "--all", "--yes")
    assert (refused.returncode, "it is running" in refused.stderr) == (1, True)
    assert tenant.run(long_run).exists()


def test_a_run_that_waits_says_for_what_and_can_be_stopped(tenant: Tenant, long_run: str) -> None:
    tenant.launch("waiting")
    state = tenant.until(
        "queued with its place",
        lambda: (found := tenant.status("waiting"))["queue_position"] is not None and found,
        seconds=30,
        name="waiting",
    )
    assert (state["state"], state["attempts"]) == ("queued", [])
    assert "quota" in state["waiting"]
    assert listed(tenant, "waiting")["state"] == "queued"
    tenant.goku("stop", "waiting")
    assert tenant.status("waiting")["state"] == "ready"
    assert not tenant.pods("waiting")
    tenant.goku("delete", "waiting", "--all", "--yes")
    assert not tenant.run("waiting").exists()
