"""The command line as a user meets it: exit codes, one line for a mistake, JSON that parses.

Most tests call `main` in this process; the last ones start a real one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
import yaml

from goku.contract.exits import Cause
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku_platform.cli import app
from tests.goku_platform import made

_PROGRAM = [sys.executable, "-c", "from goku_platform.cli.app import main; main()"]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Call(Protocol):
    def __call__(self, *arguments: str) -> Result: ...


@pytest.fixture
def goku(store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run one command in this process, in an empty place."""

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["goku-platform", *arguments])
        with pytest.raises(SystemExit) as left:
            app.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(int(left.value.code or 0), out, err)

    return call


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


def test_a_cluster_is_told_to_render(goku: Call, tmp_path: Path, store: str) -> None:
    (tmp_path / "goku-platform.yaml").write_text("target: kubernetes\n")
    Store(f"{store}/encode-images").create("latents/commits/0.json", b"{}")
    result = goku("launch", "stage1", "--size", "tiny")
    assert result.code == 1
    assert "goku-platform render PRESET --freeze | kubectl apply -f -" in result.err
    assert not RunDir(f"{store}/stage1").exists()


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


def test_render_may_freeze_the_run_it_needs(goku: Call, store: str) -> None:
    refused = goku("render", "stage1", "--size", "tiny", "--freeze")
    assert (refused.code, refused.out) == (1, "")
    Store(f"{store}/encode-images").create("latents/commits/0.json", b"{}")
    for _ in range(2):  # and again: the run is the same
        assert goku("render", "stage1", "--size", "tiny", "--freeze").code == 0
    assert RunDir(f"{store}/stage1").exists()
    other = goku("render", "stage1", "--size", "tiny", "--freeze", "--set", "training.steps=9")
    assert (other.code, "with another configuration" in other.err) == (1, True)


def test_a_dry_run_starts_nothing(goku: Call, store: str) -> None:
    Store(f"{store}/encode-images").create("latents/commits/0.json", b"{}")
    arguments = ["launch", "stage1", "--size", "tiny", "--dry-run"]
    shown = goku(*arguments)
    assert "at most 256 tokens" in shown.out
    planned = goku(*arguments, "--json").json
    assert planned["started"] is False
    assert planned["settings"]["store"] == {"value": store, "origin": "environment"}
    assert planned["settings"]["queue"] == {"value": None, "origin": "default"}
    assert planned["estimate"]["checkpoint_bytes"] == 16 * planned["estimate"]["parameters"]
    assert planned["config"]["name"] == "stage1"
    assert not RunDir(f"{store}/stage1").exists()


def test_status(goku: Call, trained: RunDir) -> None:
    screen = goku("status", "stage1").out
    for text in ("stopped", "30 of 40", "goodput   50.0%", "crashed", "yielded", "0 to 25"):
        assert text in screen
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


def test_logs_of_an_attempt(goku: Call, trained: RunDir) -> None:
    trained.store.write("logs/attempt-0001/node-0000/part-00000.log", b"[rank1]:boom\n")
    assert goku("logs", "stage1", "--attempt", "1", "--rank", "1").out == "[rank1]:boom\n"
    assert "no such attempt" in goku("logs", "stage1", "--attempt", "9").err


def test_stop_of_a_run_that_is_over(goku: Call, trained: RunDir) -> None:
    result = goku("stop", "stage1")
    assert (result.code, "it is not running on this machine" in result.err) == (1, True)


# --- a whole process


@pytest.mark.slow
def test_wait_ends_with_the_supervisors_code(store: str, tmp_path: Path) -> None:
    """The real supervisor, and a ledger that has already given up: exit 93, no rank started."""
    run = made.run(store)
    for _ in range(3):
        made.attempt(run, Cause.CRASHED)
    done = subprocess.run(
        [*_PROGRAM, "resume", "stage1", "--wait"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, "Traceback" in done.stderr) == (93, False)
    assert "made nothing durable" in done.stdout


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
def test_completion_offers_presets_and_runs(store: str, tmp_path: Path) -> None:
    made.run(store, "stage2")

    def complete(line: str) -> list[str]:
        variables = {
            "_GOKU_PLATFORM_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        shown = subprocess.run(
            _PROGRAM, env={**os.environ, **variables}, capture_output=True, text=True
        )
        return shown.stdout.split()

    assert complete("goku-platform launch stage2-7") == ["stage2-720x1280"]
    assert complete("goku-platform status st") == ["stage2"]
