"""The command line as a user meets it: exit codes, one line for a mistake, JSON that parses.

Most tests call `main` in this process; the last ones start a real one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from goku.contract.exits import Cause
from goku.contract.rundir import RunDir, samples_file
from goku.contract.samples import Seen
from goku.contract.store import Store
from goku_platform.cli import app
from goku_platform.cli.options import KindName
from goku_platform.cli.render import Form
from goku_platform.cluster.local import LocalClient
from goku_platform.settings import Kind
from tests.goku_platform import made
from tests.goku_platform.command import PROGRAM, Call


@pytest.fixture
def trained(store: str) -> RunDir:
    """A run of two attempts and one checkpoint."""
    run = made.run(store)
    made.attempt(
        run,
        Cause.CRASHED,
        first_step=0,
        last_step=25,
        durable_step=20,
        lost_steps=5,
        message="rank 1: boom",
        seconds={"productive": 50.0, "startup": 50.0},
    )
    made.attempt(run, Cause.YIELDED, first_step=20, last_step=30, durable_step=30)
    made.checkpoint(run, 30)
    return run


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["launch", "stge1"], 1, "error: stge1: there is no such preset. Did you mean stage1?"),
        (["launch", "stage1", "--size", "3b"], 1, "error: size='3b': the sizes are tiny"),
        (["launch", "stage1", "--set", "data.heigth=3"], 1, "Did you mean data.height?"),
        (["launch", "stage1", "--set", "data.height"], 1, "it has no '='"),
        (["launch", "stage1", "--set", "=3"], 1, "error: --set =3: it has no key before '='"),
        (["launch", "stage1", "--name", ""], 1, "error: name='': a run's name"),
        (["launch", "stage1", "--set", "training.learning_rate=inf"], 1, "a finite number"),
        (["launch", "stage1", "--name", "Stage 1"], 1, "error: name='Stage 1': a run's name"),
        (["launch", "stage2", "--size", "tiny"], 1, "error: data.latents=encode: there are no"),
        (["launch", "curate", "--set", "data.source=nowhere"], 1, "it is empty or does not exist"),
        (["launch", "stage1", "--profile", "none.yaml"], 1, "error: profile none.yaml: it cannot"),
        (["launch", "stage1", "--store", "nope://x"], 1, "this store cannot be opened"),
        (["status", "stage9"], 1, "error: run 'stage9': there is none at"),
        (["resume", "stage9"], 1, "error: run 'stage9'"),
        (["logs", "stage9"], 1, "error: run 'stage9'"),
        (["ckpt", "ls", "stage9"], 1, "error: run 'stage9'"),
        (["lunch"], 2, "No such command 'lunch'"),
        (["launch"], 2, "Missing argument"),
        (["launch", "stage1", "--no-such"], 2, "No such option"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    goku: Call, store: str, arguments: list[str], code: int, complaint: str
) -> None:
    result = goku(*arguments)
    assert result.code == code
    assert complaint in result.err
    assert result.out == ""
    assert not Path(store).exists()


def test_a_run_that_is_not_there_names_the_nearest(goku: Call, trained: RunDir) -> None:
    assert "Did you mean stage1?" in goku("status", "stage").err
    assert "There are: stage1." in goku("status", "quite-another").err


def test_a_store_that_cannot_be_written(goku: Call, tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    (tmp_path / "footage" / "a.mp4").touch()
    (tmp_path / "taken").touch()
    result = goku("launch", "curate", "--set", "data.source=footage", "--store", "taken/store")
    assert (result.code, "cannot be written" in result.err) == (1, True)


def test_a_run_that_exists_is_to_be_resumed(goku: Call, trained: RunDir) -> None:
    result = goku("launch", "stage1", "--size", "tiny")
    assert (result.code, "goku-platform resume stage1" in result.err) == (1, True)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.setattr(sys, "argv", ["goku-platform", "presets"])
    monkeypatch.setattr(app, "app", lambda **_: [][0])
    with pytest.raises(IndexError):
        app.main()


# --- output


def test_help_and_version(goku: Call) -> None:
    for arguments in (["--help"], ["launch", "-h"], ["ckpt", "verify", "--help"]):
        assert goku(*arguments).code == 0
    assert goku("--version").out.startswith("goku-platform 0.")


def test_presets(goku: Call) -> None:
    assert "stage2-720x1280  train   97 x 720x1280" in goku("presets").out
    listed = goku("presets", "--json").json
    assert listed["sizes"] == ["tiny", "1b", "2b", "8b"]
    stage3 = next(preset for preset in listed["presets"] if preset["name"] == "stage3")
    assert (stage3["alias_of"], stage3["starts_from"]) == ("stage3-t2v", "stage2")


def test_render(goku: Call) -> None:
    result = goku("render", "stage2")
    manifest = yaml.safe_load(result.out)
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("PyTorchJob", "stage2")
    assert "which no pod sees" in result.err
    assert goku("render", "stage2", "--json").json == manifest


def test_render_makes_every_kind(goku: Call, tmp_path: Path) -> None:
    assert [*map(str, Form)] == [*map(str, Kind), "helm"]
    assert [*map(str, KindName)] == ["auto", *map(str, Kind)]
    several = ("--set", "parallel.nodes=2", "--set", "data.packs_per_step=16")
    service, job = yaml.safe_load_all(goku("render", "stage2", *several, "--kind", "job").out)
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    listed = goku("render", "stage2", *several, "--kind", "job", "--json").json
    assert (listed["kind"], listed["items"]) == ("List", [service, job])
    wrong = goku("render", "stage2", "--kind", "rayjob")
    assert (wrong.code, "only curation" in wrong.err) == (1, True)
    written = goku("render", "stage2", *several, "--kind", "job", "--output", "objects")
    assert written.out == "objects/stage2.yaml\n"
    text = (tmp_path / "objects" / "stage2.yaml").read_text()
    assert list(yaml.safe_load_all(text)) == [service, job]


def test_render_writes_no_json(goku: Call, tmp_path: Path) -> None:
    refused = goku("render", "stage2", "--json", "--output", "objects")
    assert (refused.code, "--output writes YAML" in refused.err) == (2, True)
    assert not (tmp_path / "objects").exists()


def test_render_writes_a_chart(goku: Call, tmp_path: Path) -> None:
    nowhere = goku("render", "stage2", "--kind", "helm")
    assert (nowhere.code, "--output DIR" in nowhere.err) == (2, True)
    assert goku("render", "stage2", "--kind", "helm", "--output", "chart").code == 0
    assert yaml.safe_load((tmp_path / "chart" / "Chart.yaml").read_text())["name"] == "stage2"
    assert "kind: PyTorchJob" in (tmp_path / "chart" / "templates" / "job.yaml").read_text()


def test_render_may_freeze_the_run_it_needs(goku: Call, store: str) -> None:
    refused = goku("render", "stage1", "--size", "tiny", "--freeze")
    assert (refused.code, refused.out) == (1, "")
    Store(f"{store}/encode-images").create("latents/commits/0.json", b"{}")
    for _ in range(2):  # and again: the run is the same
        assert goku("render", "stage1", "--size", "tiny", "--freeze").code == 0
    assert RunDir(f"{store}/stage1").exists()
    other = goku("render", "stage1", "--size", "tiny", "--freeze", "--set", "training.steps=9")
    assert (other.code, "with another configuration" in other.err) == (1, True)


def test_a_dry_run_shows_the_plan_and_starts_nothing(
    goku: Call, store: str, tmp_path: Path
) -> None:
    (tmp_path / "goku-platform.yaml").write_text("gpus_per_node: 8\n")
    Store(f"{store}/encode-images").create("latents/commits/0.json", b"{}")
    arguments = ["launch", "stage1", "--size", "tiny", "--dry-run"]
    shown = goku(*arguments)
    for text in (
        "exists      nothing",
        "model       213.5K parameters: 2 layers of width 64, 4 heads",
        "at most 256 tokens: 2 packs, 1 on each data rank",
        "layout      2 data x 1 sequence, deepspeed stage 2, fp32",
        "every 20 steps",
        ", at the latest after 30 min",
        "GPU hours; the profile has no price_per_gpu_hour",
        "nothing was started",
    ):
        assert text in shown.out
    planned = goku(*arguments, "--json").json
    assert (planned["started"], planned["exists"], planned["gpus"]) == (False, False, 2)
    assert planned["settings"]["store"] == {"value": store, "origin": "environment"}
    assert planned["settings"]["queue"] == {"value": None, "origin": "default"}
    assert planned["estimate"]["checkpoint_bytes"] == 16 * planned["estimate"]["parameters"]
    assert planned["config"]["name"] == "stage1"
    assert {check["name"]: check["ok"] for check in planned["checks"]} == {
        "latents": True,
        "job": True,
        "saves": None,
    }
    assert [path.name for path in Path(store).iterdir()] == ["encode-images"]  # not even a probe


def test_nothing_is_promised_of_cpus(goku: Call, store: str, tmp_path: Path) -> None:
    (tmp_path / "goku-platform.yaml").write_text("gpus_per_node: 0\nprice_per_gpu_hour: 2\n")
    shown = goku("launch", "stage1", "--size", "tiny", "--dry-run").out
    assert "nodes       1 x 2 processes on CPUs" in shown
    assert shown.count("not predicted on CPUs") == 2
    assert "price" not in shown


def test_a_dry_run_lists_what_would_refuse(goku: Call, store: str, tmp_path: Path) -> None:
    """Without a cluster: nothing here knows one."""
    (tmp_path / "goku-platform.yaml").write_text("target: kubernetes\nprice_per_gpu_hour: 2\n")
    shown = goku("launch", "stage2", "--dry-run", "--set", "parallel.nodes=2")
    assert shown.code == 1  # a value that cannot be: 16 data ranks do not divide 8 packs
    world = ("--set", "parallel.nodes=2", "--set", "parallel.sequence=2")
    shown = goku("launch", "stage2", "--dry-run", *world)
    assert shown.code == 0
    assert "would refuse  latents: data.latents=encode: there are no latents" in shown.out
    assert "would refuse  start: training.init_from=stage1" in shown.out
    assert "nodes       2 x 8 GPUs, 16 GPUs in all" in shown.out
    assert "GPU hours at 2" in shown.out
    assert "at the peak of a GPU's 79.0 GiB" in shown.out
    assert "then a full pack with recompute=" in shown.out
    assert "of the time one is written beside training" in shown.out
    assert "which no pod sees" in shown.err
    assert not Path(store).exists()


def test_doctor(goku: Call, store: str, tmp_path: Path) -> None:
    shown = goku("doctor", "stage2", "--size", "tiny")
    assert shown.code == 1
    assert "failed   latents  data.latents=encode: there are no latents in" in shown.out
    assert "         -> Launch it first (goku-platform launch encode)" in shown.out
    (tmp_path / "goku-platform.yaml").write_text("gpus_per_node: 1\n")  # fits the smallest node
    alone = goku("doctor", "--json")
    assert (alone.code, {check["ok"] for check in alone.json}) == (0, {True})


def test_status(goku: Call, trained: RunDir) -> None:
    screen = goku("status", "stage1").out
    for text in ("stopped", "30 of 40", "goodput  50.0%", "crashed", "yielded", "0 to 25"):
        assert text in screen
    for attempt, samples in enumerate((36, 37), start=1):
        seen = Seen(samples=samples, digest=str(samples))
        trained.store.write(samples_file(attempt), seen.model_dump_json().encode())
    changed = "36 from attempt 1 on, 37 from attempt 2 on: see logs --attempt 2"
    assert changed not in screen
    assert changed in goku("status", "stage1").out
    state = goku("status", "stage1", "--json").json
    assert (state["state"], state["advice"]) == ("stopped", "resume")
    assert [attempt["exit_code"] for attempt in state["attempts"]] == [139, 143]
    assert state["training"]["durable_step"] == 30


def test_a_run_is_found_by_its_uri_too(goku: Call, trained: RunDir) -> None:
    assert goku("status", trained.uri, "--store", "memory://", "--json").json["name"] == "stage1"
    assert goku("status", "runs/stage1", "--json").json["uri"] == trained.uri


def test_checkpoints(goku: Call, trained: RunDir) -> None:
    assert "complete" in goku("ckpt", "ls", "stage1").out
    assert [one["step"] for one in goku("ckpt", "ls", "stage1", "--json").json] == [30]
    whole = goku("ckpt", "verify", "stage1")
    assert (whole.code, whole.out) == (0, "step 30: 1 files, 700 B, all as written\n")
    trained.checkpoint(30).write("rank-0.bin", b"x" * len(made.PAYLOAD))
    broken = goku("ckpt", "verify", "stage1")
    assert broken.code == 1
    assert broken.err == (
        "error: step 30: rank-0.bin: its SHA-256 does not match, bytes have changed\n"
    )
    assert goku("ckpt", "verify", "stage1", "--json").json[0]["problems"]


def test_list(goku: Call, trained: RunDir) -> None:
    shown = goku("list").out
    assert "stage1  stopped  stage1  30 of 40  2" in shown
    [line] = goku("list", "--json").json
    assert (line["name"], line["state"], line["step"]) == ("stage1", "stopped", 30)
    assert "holds no runs" in goku("list", "--store", "elsewhere").out


def test_events_of_a_run_on_this_machine(goku: Call, trained: RunDir) -> None:
    assert "knows of no event of stage1" in goku("events", "stage1").out
    assert goku("events", "stage1", "--json").json == []


def test_delete_asks_and_says_what_goes(goku: Call, trained: RunDir) -> None:
    assert "the store still has all of it" in goku("delete", "stage1").out
    refused = goku("delete", "stage1", "--checkpoints")
    assert refused.code == 1
    assert "  checkpoints   2 files," in refused.out
    assert "there is no terminal to ask on. Agree in advance: --yes" in refused.err
    assert trained.steps() == [30]
    gone = goku("delete", "stage1", "--checkpoints", "--yes", "--json")
    assert [one["name"] for one in gone.json["deleted"]] == ["checkpoints"]
    assert (trained.steps(), trained.exists()) == ([], True)
    assert goku("delete", "stage1", "--all", "--yes").code == 0
    assert not trained.exists()


def test_a_watch_ends_with_the_run(goku: Call, trained: RunDir) -> None:
    assert "30 of 40" in goku("status", "stage1", "--watch").out
    [line] = goku("status", "stage1", "--watch", "--json").out.splitlines()
    assert json.loads(line)["state"] == "stopped"


def test_logs_of_an_attempt(goku: Call, trained: RunDir) -> None:
    trained.store.write("logs/attempt-0001/node-0000/part-00000.log", b"[rank1]:boom\n")
    assert goku("logs", "stage1", "--attempt", "1", "--rank", "1").out == "[rank1]:boom\n"
    assert goku("logs", "stage1", "--previous").out == "[rank1]:boom\n"
    assert goku("logs", "stage1", "-p", "--json").json == {"line": "[rank1]:boom"}
    assert "no such attempt" in goku("logs", "stage1", "--attempt", "9").err


def test_stop_of_a_run_that_is_over(goku: Call, trained: RunDir) -> None:
    result = goku("stop", "stage1")
    assert (result.code, "it is not running on this machine" in result.err) == (1, True)


def test_stop_of_a_run_that_reaches_its_end(
    goku: Call, trained: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(_client: LocalClient, _uri: str, *, now: bool = False) -> None:
        assert not now
        made.attempt(trained, Cause.DONE)

    monkeypatch.setattr(LocalClient, "stop", ends)
    assert goku("stop", "stage1").out == "stage1 has ended, step 30 is durable. It is done.\n"


# --- a whole process


@pytest.mark.slow
def test_wait_ends_with_the_supervisors_code(store: str, tmp_path: Path) -> None:
    """The real supervisor and ranks, and no data: the user's error, and no traceback of ours."""
    made.run(store)
    done = subprocess.run(
        [*PROGRAM, "resume", "stage1", "--wait"], capture_output=True, text=True, timeout=250
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "error: ended with code 1: goku-platform status stage1" in done.stderr
    assert "encode-images" in done.stdout


@pytest.mark.slow
def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from goku_platform.cli.app import main\n"
        "sys.argv = ['goku-platform', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print(*sys.modules, sep=chr(10), file=sys.stderr)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(shown.stderr.split())
    assert "typer" in loaded
    assert "launch" in shown.stdout
    heavy = {"torch", "numpy", "kubernetes", "kubeflow", "pydantic", "yaml", "fsspec", "rich"}
    assert not loaded & (heavy | {"goku.config", "goku.contract.store"})


@pytest.mark.slow
def test_imports_are_not_looked_through_for_garbage() -> None:
    code = (
        "import atexit, gc, sys\n"
        "from goku_platform.cli.app import main\n"
        "atexit.register(lambda: print(gc.get_freeze_count(), gc.get_threshold()[0]))\n"
        "sys.argv = ['goku-platform', '--version']\n"
        "main()\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    frozen, young = map(int, shown.stdout.splitlines()[-1].split())
    assert frozen > 10_000
    assert young > 10_000


@pytest.mark.slow
def test_completion_offers_presets_and_runs(store: str, tmp_path: Path) -> None:
    made.run(store, "stage2")

    def complete(line: str) -> list[str]:
        variables = {
            "_GOKU_PLATFORM_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        shown = subprocess.run(
            PROGRAM, env={**os.environ, **variables}, capture_output=True, text=True
        )
        return shown.stdout.split()

    assert complete("goku-platform launch stage2-7") == ["stage2-720x1280"]
    assert complete("goku-platform status st") == ["stage2"]
