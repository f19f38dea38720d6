"""What rank 0 serves and stores: every metric of the contract, rows that any reader can parse."""

import json
import math
import time
import urllib.request
from pathlib import Path

import pytest

from goku.contract import metrics
from goku.contract.metrics import TimeClass
from goku.contract.rundir import RunDir, rows_file, rows_files
from goku.trainer import rows
from goku.trainer.clock import Clock
from goku.trainer.report import BINS, Report

ROW = {
    "step": 1.0,
    "loss": 2.0,
    "grad_norm": 0.5,
    "learning_rate": 1e-3,
    "step_seconds": 0.1,
    "imbalance": 1.25,
    "compiled_graphs": 2.0,
}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    run = RunDir(str(tmp_path / "r"))
    return Report(run, Clock(time.time() - 5), stage="stage1", attempt=2, target_step=10)


def scrape(report: Report) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{report.serve(0)}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return {key: float(value) for key, value in (li.rsplit(" ", 1) for li in lines if li[0] != "#")}


def test_serves_every_metric_of_the_contract(report: Report) -> None:
    report.stepped(ROW, tokens=100, samples=3, flops=10**9)
    for metric in metrics.ALL:
        if metric.kind == "gauge":
            report.set(metric, 1.5, **dict.fromkeys(metric.labels, "x"))
    names = {key.split("{")[0] for key in scrape(report)}
    for metric in metrics.ALL:
        served = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        assert served in names, metric.name


def test_says_how_even_ranks_are_and_how_often_blocks_were_compiled(report: Report) -> None:
    report.stepped(ROW, tokens=1, samples=1, flops=1)
    found = {key.split("{")[0]: value for key, value in scrape(report).items()}
    assert found[metrics.IMBALANCE.name] == 1.25
    assert found[metrics.GRAPHS.name] == 2


def test_time_classes_sum_to_the_wall_time(report: Report) -> None:
    series = scrape(report)
    classes = {k: v for k, v in series.items() if k.startswith("goku_time_seconds_total{")}
    assert len(classes) == len(TimeClass)
    assert sum(classes.values()) == pytest.approx(5, abs=1)


def test_labels_name_run_stage_and_attempt(report: Report) -> None:
    report.stepped(ROW, tokens=1, samples=1, flops=1)
    key = 'goku_loss{attempt="2",run="r",stage="stage1"}'
    assert scrape(report)[key] == 2.0


def test_a_step_of_a_large_model_falls_between_two_bounds(report: Report) -> None:
    report.stepped({**ROW, "step_seconds": 42.0}, tokens=1, samples=1, flops=1)
    counts = {
        float(key.split('le="')[1].split('"')[0]): value
        for key, value in scrape(report).items()
        if key.startswith("goku_step_seconds_bucket")
    }
    assert (counts[30.0], counts[45.0], counts[math.inf]) == (0, 1, 1)


def test_rows_are_json_lines_without_nan(report: Report, tmp_path: Path) -> None:
    report.stepped({**ROW, "loss": math.nan}, tokens=1, samples=1, flops=1)
    report.note(validation_loss_ema=0.25)
    report.stepped({**ROW, "step": 2.0}, tokens=1, samples=1, flops=1)
    report.flush(force=True)
    lines = (tmp_path / "r/metrics/attempt-0002.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["loss"] is None
    assert first["validation_loss_ema"] == 0.25
    assert second["step"] == 2


def test_rows_of_a_long_attempt_lie_in_files_that_stay_small(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a flush writes does not grow with the steps behind it."""
    monkeypatch.setattr(rows, "_MOST", 10)
    run, sent = RunDir(str(tmp_path / "r")), []
    monkeypatch.setattr(report._courier, "send", lambda name, data: sent.append((name, data)))
    for step in range(1, 36):
        report.stepped({**ROW, "step": float(step)}, tokens=1, samples=1, flops=1)
        report.note(validation_loss_raw=step / 2)
        report.flush(force=True)
    assert max(len(data.splitlines()) for _, data in sent) == 10
    for name, data in sent:
        run.store.write(name, data)
    files = rows_files(run.store, 2)
    assert files == [rows_file(2, part) for part in range(1, 5)]
    found = [json.loads(line) for name in files for line in run.store.read(name).splitlines()]
    assert [row["step"] for row in found] == list(range(1, 36))
    assert [row["validation_loss_raw"] for row in found] == [step / 2 for step in range(1, 36)]


def test_the_histogram_of_timesteps_is_stored_with_the_run(report: Report, tmp_path: Path) -> None:
    for bins in ((0, 0, 19), (10,)):
        report.drew([float(bins.count(number)) for number in range(BINS)])
    report.stepped(ROW, tokens=1, samples=1, flops=1)
    report.flush(force=True)
    stored = json.loads((tmp_path / "r/metrics/attempt-0002-timesteps.json").read_text())
    assert sum(stored["counts"]) == 4
    assert (stored["counts"][0], stored["counts"][10], stored["counts"][-1]) == (2, 1, 1)


def test_a_failing_store_does_not_stop_training(
    report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r/metrics").write_text("a file where the folder should be")
    report.stepped(ROW, tokens=1, samples=1, flops=1)
    report.flush(force=True)
    assert "metrics are not written" in capsys.readouterr().out
