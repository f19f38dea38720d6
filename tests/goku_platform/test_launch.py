"""From a request to a started job: what is composed, what is refused, and that a refusal writes
nothing."""

import socket
import threading
import time
from pathlib import Path

import pytest

from goku.config import ConfigError, RunConfig
from goku.contract.attempts import Ledger, Pulse
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku.contract.store import Store, StoreError
from goku_platform.cluster.client import Check, Sighting
from goku_platform.cluster.fake import FakeClient
from goku_platform.cluster.local import LocalClient
from goku_platform.errors import PlatformError, PreflightError, RunError, TargetError
from goku_platform.jobs.spec import JobSpec
from goku_platform.runs import existing, preflight
from goku_platform.runs.compose import Request, compose
from goku_platform.runs.existing import look
from goku_platform.runs.launch import draft, launch, prepare
from goku_platform.settings import Kind, Settings
from tests.goku_platform import made


def request(preset: str, *overrides: str, **fields: str) -> Request:
    return Request(preset=preset, size="tiny", overrides=overrides, **fields)


def with_latents(store: str, name: str = "encode-images") -> None:
    Store(f"{store}/{name}").create("latents/commits/0.json", b"{}")


def start(config: RunConfig, client: FakeClient, *, force: bool = False) -> RunDir:
    prepared = prepare(config, Settings(), client, code_version="abc", force=force)
    return launch(prepared, client, code_version="abc", force=force)


# --- compose


def test_paths_are_anchored_and_names_are_not(store: str, tmp_path: Path) -> None:
    config = compose(request("curate", "data.source=footage"), store="runs")
    assert config.data.source == str(tmp_path / "footage")
    assert config.store == str(tmp_path / "runs")
    config = compose(request("stage2", "data.latents=../other/encode"), store="s3://b/runs")
    assert config.data.latents == str(tmp_path / "../other/encode")
    assert config.training.init_from == "stage1"
    assert config.vae.weights == "random"
    assert config.store == "s3://b/runs"


def test_from_means_what_the_job_starts_from(store: str) -> None:
    train = compose(request("stage2", start_from="mine"), store=store)
    assert train.training.init_from == "mine"
    sample = compose(request("sample", start_from="s3://b/runs/mine"), store=store)
    assert sample.sampling.weights_from == "s3://b/runs/mine"
    with pytest.raises(ConfigError, match="--from mine: a curate run starts from no other run"):
        compose(request("curate", "data.source=f", start_from="mine"), store=store)


# --- preflight


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            request("stage1"),
            r"data.latents=encode-images: there are no latents in .*launch encode-images",
        ),
        (request("encode"), r"data.clips=curate: there are no clips in .*launch curate"),
        (
            request("stage1", "data.latents=none"),
            r"data.clips=curate: there are no clips",
        ),
        (request("curate", "data.source=empty"), r"data.source=.*empty: it is empty"),
        (request("curate", "data.source=memory://none"), r"data.source=memory://none: it is emp"),
        (request("sample"), r"sampling.weights_from=stage3: there is no complete checkpoint"),
        (request("sample", "sampling.weights_from=none"), r"Name one with --from RUN"),
        (request("sample", "vae.weights=nowhere"), r"vae.weights=.*nowhere: it does not exist"),
        (request("sample", "sampling.first_frame=a.png"), r"sampling.first_frame=.*a.png"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    store: str, tmp_path: Path, asked: Request, complaint: str
) -> None:
    (tmp_path / "empty").mkdir()
    client = FakeClient()
    with pytest.raises(PreflightError, match=complaint):
        start(compose(asked, store=store), client)
    assert not Path(store).exists()
    assert not client.applied


def test_a_stage_needs_the_one_before(store: str) -> None:
    with_latents(store, "encode")
    config = compose(request("stage2"), store=store)
    rule = r"training.init_from=stage1: there is no complete checkpoint.*launch stage1\)"
    with pytest.raises(PreflightError, match=rule):
        start(config, FakeClient())
    previous = made.run(store, "stage1")
    with pytest.raises(PreflightError, match=rule):  # it exists, but nothing of it is durable
        start(config, FakeClient())
    made.checkpoint(previous, 20)
    made.attempt(previous, Cause.DONE)
    assert preflight.check(config) == ()
    assert start(config, FakeClient()).exists()


def test_an_unfinished_stage_is_mentioned_and_one_of_another_size_refused(store: str) -> None:
    with_latents(store, "encode")
    previous = made.run(store, "stage1")
    made.checkpoint(previous, 20)
    [warning] = preflight.check(compose(request("stage2"), store=store))
    assert warning == "run 'stage1' is not done: this one starts from its step 20."
    other = request("stage2", "model.width=32")
    with pytest.raises(PreflightError, match=r"model.width=32: run 'stage1' has 64"):
        preflight.check(compose(other, store=store))


def test_a_checkpoint_of_one_step(store: str) -> None:
    made.checkpoint(made.run(store, "stage3"), 20)
    preflight.check(compose(request("sample", "sampling.step=20"), store=store))
    preflight.check(compose(request("sample", "model.width=32"), store=store))  # as trained
    with pytest.raises(PreflightError, match="no complete checkpoint of step 30"):
        preflight.check(compose(request("sample", "sampling.step=30"), store=store))
    Store(f"{store}/stage3").write("config.json", b"{}")  # as an export has it
    with pytest.raises(PreflightError, match=r"sampling.step=20: .* is an export, of one step"):
        preflight.check(compose(request("sample", "sampling.step=20"), store=store))


def test_a_store_that_cannot_be_written(store: str, tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    (tmp_path / "footage" / "a.mp4").touch()
    (tmp_path / "file").touch()
    config = compose(request("curate", "data.source=footage"), store=str(tmp_path / "file" / "s"))
    client = FakeClient()
    with pytest.raises(PreflightError, match=r"cannot be written.*Choose another store"):
        start(config, client)
    assert not client.applied


# --- launch


def test_a_launch_freezes_the_run_and_starts_it(store: str) -> None:
    with_latents(store)
    client = FakeClient()
    config = compose(request("stage1", name="mine"), store=store)
    run = start(config, client)
    assert run.config() == config
    assert [spec.run_uri for spec in client.applied] == [f"{store}/mine"]


def test_a_run_that_exists_is_not_launched_again(store: str) -> None:
    with_latents(store)
    client, config = FakeClient(), compose(request("stage1"), store=store)
    run = start(config, client)
    with pytest.raises(RunError, match=r"'stage1': it is running\. Watch it"):
        start(config, client)
    client.end(run.uri, 0)
    with pytest.raises(RunError, match=r"it exists in .* goku-platform resume stage1"):
        start(config, client)
    assert len(client.applied) == 1


def test_a_target_that_refuses_leaves_no_run(store: str) -> None:
    with_latents(store)
    refusal = TargetError("parallel.nodes=2", "this machine is one node", "Use one.")
    client, config = FakeClient(refusal=refusal), compose(request("stage1"), store=store)
    with pytest.raises(PlatformError, match="one node"):
        start(config, client)
    assert not RunDir(f"{store}/stage1").exists()


def test_of_several_failed_checks_the_first_is_mended_and_all_are_named(store: str) -> None:
    """The latents are missing here, and the target has its own complaint."""
    no_queue = Check("queue", False, "queue q: it does not exist", "Name another in the profile.")
    client, config = FakeClient(checks=(no_queue,)), compose(request("stage1"), store=store)
    with pytest.raises(PreflightError) as caught:
        start(config, client)
    text = str(caught.value)
    assert text.startswith("data.latents=encode-images: there are no latents")
    assert "Failed too: queue (queue q: it does not exist)" in text
    assert not Path(store).exists()


def test_the_target_is_asked_while_the_store_is_read(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_latents(store)
    both = threading.Barrier(2, timeout=10)
    looked = existing.stored

    class Waits(FakeClient):
        def get(self, run_uri: str) -> Sighting:
            both.wait()
            return super().get(run_uri)

    def waits(run: RunDir) -> existing.Existing:
        both.wait()
        return looked(run)

    monkeypatch.setattr(existing, "stored", waits)
    config = compose(request("stage1"), store=store)
    assert prepare(config, Settings(), Waits(), code_version="abc").report.failed == ()


def test_of_a_target_and_a_store_that_are_away_the_target_is_told(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(FakeClient):
        def get(self, run_uri: str) -> Sighting:
            time.sleep(0.1)  # later than the store
            raise TargetError("api", "it is away", "Wait.")

    def stored(run: RunDir) -> existing.Existing:
        raise StoreError(f"{run.uri}: it is away. Wait.")

    monkeypatch.setattr(existing, "stored", stored)
    config = compose(request("stage1"), store=store)
    with pytest.raises(TargetError, match="api: it is away"):
        prepare(config, Settings(), Away(), code_version="abc")
    with pytest.raises(StoreError, match="it is away"):
        prepare(config, Settings(), FakeClient(), code_version="abc")


def test_a_store_is_tried_only_after_every_other_check(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_latents(store)
    config = compose(request("stage1"), store=store)
    tried: list[Store] = []
    monkeypatch.setattr(Store, "check_writable", lambda one: tried.append(one))
    refusing = FakeClient(checks=[Check("rights", False, "you may not", "Ask.")])
    with pytest.raises(PreflightError):
        prepare(config, Settings(), refusing, code_version="abc")
    assert not tried
    prepare(config, Settings(), FakeClient(), code_version="abc")
    assert len(tried) == 1


def test_what_could_not_be_found_out_does_not_refuse(store: str) -> None:
    with_latents(store)
    client = FakeClient(checks=(Check("quota", None, "no right to look"),))
    assert start(compose(request("stage1"), store=store), client).exists()


def test_the_kind_is_chosen_by_the_target(store: str) -> None:
    with_latents(store)
    client, config = FakeClient(kind=Kind.JOBSET), compose(request("stage1"), store=store)
    prepared = prepare(config, Settings(), client, code_version="abc")
    assert (prepared.spec.placement.kind, prepared.why) == (Kind.JOBSET, "in memory")
    launch(prepared, client, code_version="abc")
    assert client.applied == [prepared.spec]


def test_saves_that_were_slower_than_the_stop_budget_refuse(store: str) -> None:
    """A launch believes what the run before has measured, not the rate in the profile."""
    with_latents(store, "encode")
    previous = made.run(store, "stage1")
    made.checkpoint(previous, 20, save_seconds=15)
    made.checkpoint(previous, 40, save_seconds=15)
    made.attempt(previous, Cause.DONE, durable_step=40)
    config = compose(request("stage2"), store=store)
    assert start(config, FakeClient()).exists()  # even a slow one fits into 60 s
    made.checkpoint(previous, 60, save_seconds=195)
    again = compose(request("stage2", name="again"), store=store)
    with pytest.raises(PreflightError, match=r"a save took 75 s .* the stop budget is 60 s"):
        start(again, FakeClient())


# --- a dry run


def test_a_draft_lists_what_is_missing_and_asks_nobody(store: str) -> None:
    config = compose(request("stage2"), store=store)
    drafted = draft(config, Settings(), code_version="abc")
    assert [check.name for check in drafted.report.failed] == ["latents", "start"]
    assert drafted.existing is not None
    assert str(drafted.existing) == "nothing"
    assert not Path(store).exists()


def test_a_draft_says_what_is_there_already(store: str) -> None:
    run = made.run(store)
    made.checkpoint(run, 20)
    made.attempt(run, Cause.CRASHED)
    drafted = draft(compose(request("stage1"), store=store), Settings(), code_version="abc")
    assert str(drafted.existing) == "attempt 1 crashed, step 20"


def test_a_draft_survives_a_store_that_cannot_be_read(tmp_path: Path, store: str) -> None:
    (tmp_path / "file").touch()
    config = compose(request("stage1", "data.latents=/tmp/none"), store=store)
    unread = config.model_copy(update={"store": "nope://bucket"})
    drafted = draft(unread, Settings(), code_version="abc")
    assert drafted.existing is None
    assert "this store cannot be opened" in drafted.report.failed[-1].detail


# --- interrupts


class Interrupted(FakeClient):
    """Ctrl-C while the job is being made, before or after the target has it."""

    made_it = False

    def apply(self, spec: JobSpec) -> None:
        if self.made_it:
            super().apply(spec)
        raise KeyboardInterrupt


def test_an_interrupted_launch_takes_the_run_back(store: str) -> None:
    with_latents(store)
    config = compose(request("stage1"), store=store)
    with pytest.raises(KeyboardInterrupt):
        start(config, Interrupted())
    assert not RunDir(f"{store}/stage1").exists()
    other = compose(request("stage1", "training.steps=41"), store=store)  # thought better of it
    assert start(other, FakeClient()).exists()


def test_an_interrupt_after_the_start_leaves_the_run(store: str) -> None:
    with_latents(store)
    client = Interrupted()
    client.made_it = True
    with pytest.raises(KeyboardInterrupt):
        start(compose(request("stage1"), store=store), client)
    assert RunDir(f"{store}/stage1").exists()


def test_an_interrupt_never_takes_back_what_was_there(store: str) -> None:
    with_latents(store)
    config = compose(request("stage1"), store=store)
    start(config, FakeClient())
    with pytest.raises(KeyboardInterrupt):
        start(config, Interrupted(), force=True)
    assert RunDir(f"{store}/stage1").exists()


# --- alive elsewhere


def test_a_run_that_is_alive_elsewhere_is_taken_over_only_by_force(store: str) -> None:
    with_latents(store)
    config = compose(request("stage1"), store=store)
    run = start(config, FakeClient())
    attempt = made.attempt(run, Cause.RUNNING)
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=("pod-0", "pod-1")))
    client = FakeClient()
    with pytest.raises(RunError, match=r"alive on pod-0, pod-1.* Only one attempt can commit"):
        start(config, client)
    start(config, client, force=True)
    assert len(client.applied) == 1
    assert run.store.exists("attempts/0001.resume")
    with pytest.raises(RunError, match="it is running"):  # here: the target would refuse as well
        start(config, client, force=True)


def test_force_does_not_change_what_a_run_computes(store: str) -> None:
    with_latents(store)
    start(compose(request("stage1"), store=store), FakeClient())
    other = compose(request("stage1", "training.steps=41"), store=store)
    with pytest.raises(ConfigError, match="with another configuration"):
        start(other, FakeClient(), force=True)


def test_a_run_of_another_user_of_this_machine_is_alive_elsewhere(store: str) -> None:
    run, host = made.run(store), socket.gethostname()
    attempt = made.attempt(run, Cause.RUNNING)
    Ledger(run).beat(attempt.number, Pulse(at=time.time(), hosts=(host,)))
    assert look(run, LocalClient()).elsewhere == host  # which has no job of it


@pytest.mark.parametrize(
    ("age", "host", "seen"),
    [
        (60.0, "pod-0", Sighting(alive=False)),  # it is cold
        (0.0, "pod-0", Sighting(alive=False, place="JobSet stage1")),  # the target saw it end
    ],
)
def test_a_pulse_that_says_nothing(store: str, age: float, host: str, seen: Sighting) -> None:
    run, client = made.run(store), FakeClient()
    attempt = made.attempt(run, Cause.RUNNING)
    Ledger(run).beat(attempt.number, Pulse(at=time.time() - age, hosts=(host,)))
    client.sightings[run.uri] = seen
    assert look(run, client).elsewhere == ""
