"""From a request to a started job: what is composed, what is refused, and that a refusal writes
nothing."""

from pathlib import Path

import pytest

from goku.config import ConfigError, RunConfig
from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku.contract.store import Store, StoreError
from goku_platform.cluster.fake import FakeClient
from goku_platform.errors import PlatformError, PreflightError, RunError, TargetError
from goku_platform.runs import preflight
from goku_platform.runs.compose import Request, compose
from goku_platform.runs.launch import launch, prepare
from goku_platform.settings import Settings
from tests.goku_platform import made


def request(preset: str, *overrides: str, **fields: str) -> Request:
    return Request(preset=preset, size="tiny", overrides=overrides, **fields)


def with_latents(store: str, name: str = "encode-images") -> None:
    Store(f"{store}/{name}").create("latents/commits/0.json", b"{}")


def start(config: RunConfig, client: FakeClient) -> RunDir:
    prepared = prepare(config, Settings(), client, code_version="abc")
    return launch(prepared, client, code_version="abc")


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


def test_a_store_that_cannot_be_written(store: str, tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    (tmp_path / "footage" / "a.mp4").touch()
    (tmp_path / "file").touch()
    config = compose(request("curate", "data.source=footage"), store=str(tmp_path / "file" / "s"))
    client = FakeClient()
    with pytest.raises(StoreError, match="cannot be written"):
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
