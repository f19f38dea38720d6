"""The verbs against a cluster's client, which is in memory: what is asked, shown and refused."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from goku.contract.attempts import Ledger
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku_platform.cli import app, options
from goku_platform.cluster.client import Check, Event, Seen, Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.settings import Kind, Settings
from tests.goku_platform import made
from tests.goku_platform.command import Call

LAUNCH = ("launch", "stage1", "--size", "tiny")


@pytest.fixture
def cluster(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """A profile of a cluster whose client remembers what it was asked, and latents for stage1."""
    client = FakeClient(kind=Kind.JOBSET)
    text = "target: kubernetes\nqueue: research\nprice_per_gpu_hour: 2.5\n"
    (tmp_path / "goku-platform.yaml").write_text(text)
    Store(f"{store}/encode-images").create("latents/commits/0.json", b"{}")

    def choose(settings: Settings, _seconds: float) -> FakeClient:
        assert settings.target == "kubernetes"
        return client

    monkeypatch.setattr(options, "client", choose)
    return client


# --- launch


def test_a_launch_without_a_terminal_needs_agreement(
    goku: Call, cluster: FakeClient, store: str
) -> None:
    refused = goku(*LAUNCH)
    assert refused.code == 1
    assert "namespace goku, queue research as a jobset (in memory)" in refused.out  # the plan first
    assert "there is no terminal to ask on. Agree in advance: --yes" in refused.err
    assert not cluster.applied
    assert not RunDir(f"{store}/stage1").exists()


@pytest.mark.parametrize(("answer", "started"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_is_asked(
    goku: Call,
    cluster: FakeClient,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    started: bool,
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: answer == "y\n")
    result = goku(*LAUNCH)
    assert (result.code == 0, len(cluster.applied) == 1) == (started, started)
    assert ("it was not agreed to. Nothing was changed" in result.err) != started


def test_a_launch_that_is_agreed_to(goku: Call, cluster: FakeClient) -> None:
    launched = goku(*LAUNCH, "--yes", "--json").json
    assert (launched["started"], launched["kind"], launched["why"]) == (True, "jobset", "in memory")
    assert launched["estimate"]["price"] > 0
    assert cluster.applied[0].placement.queue == "research"
    twice = goku(*LAUNCH, "--yes")
    assert (twice.code, "it is running" in twice.err) == (1, True)


def test_the_kind_may_be_given(goku: Call, cluster: FakeClient) -> None:
    assert goku(*LAUNCH, "--yes", "--kind", "job", "--json").json["kind"] == "job"
    assert goku("launch", "stage1", "--kind", "cronjob").code == 2


def test_a_failed_check_refuses_before_anything_is_made(
    goku: Call, cluster: FakeClient, store: str
) -> None:
    cluster.checks = (
        Check("queue", False, "queue research: it does not exist", "kubectl get localqueues."),
        Check("rights", False, "pods: list is not allowed", "Ask for the chart's Role."),
    )
    refused = goku(*LAUNCH, "--yes")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.splitlines()[-1].startswith("error: queue research: it does not exist")
    assert "rights (pods: list is not allowed)" in refused.err
    assert not RunDir(f"{store}/stage1").exists()
    doctor = goku("doctor", "stage1", "--size", "tiny")
    assert doctor.code == 1
    failed = [line.split()[1] for line in doctor.out.splitlines() if line.startswith("failed")]
    assert failed == ["queue", "rights"]


def test_a_diff_starts_nothing(goku: Call, cluster: FakeClient) -> None:
    assert goku(*LAUNCH, "--diff").out == "nothing would change\n"
    cluster.difference = "--- a\n+++ b\n"
    assert goku(*LAUNCH, "--diff").out == cluster.difference
    assert goku(*LAUNCH, "--diff", "--json").json["diff"] == cluster.difference
    assert goku(*LAUNCH, "--diff", "--dry-run").code == 2
    assert not cluster.applied


def test_ctrl_c_leaves_no_half_launch(
    goku: Call,
    cluster: FakeClient,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(_spec: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "apply", interrupted)
        patch.setattr(sys, "argv", ["goku-platform", *LAUNCH, "--yes"])
        with pytest.raises(SystemExit) as left:
            app.main()
    assert left.value.code != 0
    assert not RunDir(f"{store}/stage1").exists()
    assert goku(*LAUNCH, "--yes").code == 0


# --- looking


@pytest.fixture
def run(store: str, cluster: FakeClient) -> RunDir:
    return made.run(store)


def test_status_of_a_run_that_waits(goku: Call, cluster: FakeClient, run: RunDir) -> None:
    cluster.sightings[run.uri] = Sighting(
        alive=True,
        place="JobSet stage1",
        waiting="insufficient unused quota, 2 more needed",
        queue_position=1,
        trouble="FailedCreatePod: no such secret",
    )
    screen = goku("status", "stage1").out
    for text in (
        "queued: its queue has not admitted it yet",
        "insufficient unused quota, 2 more needed (1 before it in the queue)",
        "FailedCreatePod: no such secret",
        "JobSet stage1",
    ):
        assert text in screen
    state = goku("status", "stage1", "--json").json
    assert (state["state"], state["queue_position"]) == ("queued", 1)


def test_status_counts_pods_and_cost(goku: Call, cluster: FakeClient, run: RunDir) -> None:
    made.attempt(run, Cause.CRASHED, lost_steps=5)
    cluster.sightings[run.uri] = Sighting(
        alive=True, waiting="0/3 nodes are available", pods={"Running": 1, "Pending": 1}
    )
    screen = goku("status", "stage1").out
    assert "pending" in screen
    assert "1 Pending, 1 Running" in screen
    assert "5 steps were not saved in time" in screen  # done again, or still to be
    assert "0.14: 0.06 GPU hours so far" in screen


def test_a_watch_is_a_line_of_json_for_every_change(
    goku: Call, cluster: FakeClient, run: RunDir
) -> None:
    made.attempt(run, Cause.YIELDED)
    cluster.sightings[run.uri] = Sighting(alive=True, waiting="quota")
    cluster.watched[run.uri] = [Sighting(alive=False)]
    lines = goku("status", "stage1", "--watch", "--json").out.splitlines()
    assert json.loads(lines[-1])["state"] == "stopped"
    assert len(lines) <= 2


def test_events(goku: Call, cluster: FakeClient, run: RunDir) -> None:
    cluster.happened[run.uri] = [
        Event(0.0, "JobSet/stage1", "Stopped", "Preempted to accommodate a workload"),
        Event(60.0, "Pod/stage1-node-0-0", "FailedMount", "no secret", warning=True, times=3),
    ]
    shown = " ".join(goku("events", "stage1").out.split())
    assert "00:00:00Z JobSet/stage1 Stopped Preempted to accommodate a workload" in shown
    assert "00:01:00Z warning Pod/stage1-node-0-0 FailedMount x3 no secret" in shown
    assert goku("events", "stage1", "--json").json[1]["warning"] is True


def test_the_target_is_listed_once(
    goku: Call, cluster: FakeClient, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def listed() -> Sequence[Seen]:
        asked.append(1)
        return [Seen(run.uri, Sighting(alive=True, waiting="quota"))]

    monkeypatch.setattr(cluster, "list", listed)
    assert goku("list", "--json").json[0]["waiting"] == "quota"
    assert asked == [1]


# --- stop, resume, delete


def test_stop_and_stop_now(goku: Call, cluster: FakeClient, run: RunDir) -> None:
    cluster.sightings[run.uri] = Sighting(alive=True)
    assert goku("stop", "stage1", "--json").json == {
        "name": "stage1",
        "uri": run.uri,
        "durable_step": None,
    }
    cluster.sightings[run.uri] = Sighting(alive=True)
    assert "stage1 has ended" in goku("stop", "stage1", "--now").out
    assert cluster.killed == [run.uri]


def test_stop_waits_no_longer_than_it_was_told(
    goku: Call, cluster: FakeClient, run: RunDir
) -> None:
    cluster.ends_on_stop = False
    cluster.sightings[run.uri] = Sighting(alive=True)
    late = goku("stop", "stage1", "--timeout", "0.1")
    assert (late.code, "it is still saving after 0.1 s" in late.err) == (1, True)


def test_resume_on_another_world_and_kind(goku: Call, cluster: FakeClient, run: RunDir) -> None:
    made.checkpoint(run, 20)
    made.attempt(run, Cause.USER_ERROR)
    begun = goku(
        "resume", "stage1", "--set", "parallel.nodes=2", "--set",
        "parallel.processes_per_node=1", "--kind", "job", "--json",
    ).json  # fmt: skip
    assert (begun["from_step"], begun["nodes"], begun["kind"]) == (20, 2, "job")
    assert Ledger(run).final() is None
    again = goku("resume", "stage1")
    assert (again.code, "it is running" in again.err) == (1, True)


def test_delete_never_while_it_lives(goku: Call, cluster: FakeClient, run: RunDir) -> None:
    cluster.sightings[run.uri] = Sighting(alive=True)
    refused = goku("delete", "stage1", "--all", "--yes")
    assert (refused.code, "it is running" in refused.err) == (1, True)
    assert run.exists()


# --- time


def silent(*_arguments: object, **_options: object) -> Iterator[str]:
    time.sleep(60)
    yield ""


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (("launch", "stage1", "--size", "tiny", "--name", "other"), "get"),
        (("launch", "stage1", "--size", "tiny", "--name", "other", "--diff"), "diff"),
        (("doctor",), "preflight"),
        (("status", "stage1"), "get"),
        (("logs", "stage1"), "logs"),
        (("events", "stage1"), "events"),
        (("list",), "list"),
        (("resume", "stage1"), "get"),
        (("delete", "stage1"), "get"),
    ],
)
def test_no_verb_waits_for_ever(
    goku: Call,
    cluster: FakeClient,
    run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    method: str,
) -> None:
    def hangs(*_arguments: object, **_options: object) -> object:
        return next(silent())

    monkeypatch.setattr(cluster, method, silent if method == "logs" else hangs)
    began = time.monotonic()
    late = goku(*arguments, "--timeout", "0.3")
    assert time.monotonic() - began < 10
    assert late.code == 1
    assert "it had no answer within 0.3 s. Give it longer with --timeout" in late.err


def test_a_store_that_hangs_is_left_too(
    goku: Call, cluster: FakeClient, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread of its own, which must not keep the verb: here `list` reads many runs."""
    monkeypatch.setattr(RunDir, "config", lambda _self: time.sleep(60))
    assert "no answer within 0.3 s" in goku("list", "--timeout", "0.3").err
