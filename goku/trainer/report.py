"""What rank 0 tells the world: Prometheus series, rows in the store, lines on the console.

Names come from `goku.contract.metrics`.
"""

import importlib.util
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily

from goku.checkpoint.save import Saved, SaveFailed, Tier
from goku.contract import metrics
from goku.contract.metrics import LABELS, Metric
from goku.contract.rundir import METRICS, RunDir
from goku.trainer.clock import Clock
from goku.trainer.courier import Courier
from goku.trainer.rows import Rows

_FLUSH_SECONDS = 10.0
_LAST_FLUSH_SECONDS = 20.0  # to wait for the store in the end
BINS = 20  # of the histogram of t over [0, 1]


class _TimeClasses:
    """Reads the clock whenever it is scraped, so that the classes always sum to now."""

    def __init__(self, clock: Clock, labels: Mapping[str, str]) -> None:
        self._clock, self._labels = clock, labels

    def collect(self) -> Iterator[CounterMetricFamily]:
        metric = metrics.TIME_SECONDS
        family = CounterMetricFamily(metric.name, metric.help, labels=[*LABELS, *metric.labels])
        for name, seconds in self._clock.seconds().items():
            family.add_metric([*(self._labels[label] for label in LABELS), name], seconds)
        yield family


class Report:
    """Metrics of one attempt, on rank 0."""

    def __init__(
        self, run: RunDir, clock: Clock, *, stage: str, attempt: int, target_step: int
    ) -> None:
        self._courier, self._attempt = Courier(run.store), attempt
        self._labels = {"run": run.name, "stage": stage, "attempt": str(attempt)}
        self._registry = CollectorRegistry()
        self._registry.register(_TimeClasses(clock, self._labels))
        self._gauges = {m.name: Gauge(**self._described(m)) for m in _of("gauge")}
        self._counters = {m.name: Counter(**self._described(m)) for m in _of("counter")}
        self._step_seconds = Histogram(
            **self._described(metrics.STEP_SECONDS), buckets=metrics.STEP_BUCKETS
        )
        for counter in self._counters.values():  # absent until it counts, it would break rates
            counter.labels(**self._labels)
        self._target = target_step
        self._recent: deque[float] = deque(maxlen=50)
        self._rows = Rows(self._courier, attempt)
        self._times = [0] * BINS
        self._flushed_at = time.monotonic()
        self._failed_saves = 0  # since the last commit
        self.set(metrics.TARGET_STEP, target_step)

    def serve(self, port: int) -> int:
        """Serve /metrics on `port` (0 picks a free one) and return the port."""
        server, _ = start_http_server(port, addr="0.0.0.0", registry=self._registry)
        return int(server.server_port)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._gauges[metric.name].labels(**self._labels, **labels).set(value)

    def add(self, metric: Metric, value: float = 1.0) -> None:
        self._counters[metric.name].labels(**self._labels).inc(value)

    def stepped(self, row: Mapping[str, float], *, tokens: int, samples: int, flops: float) -> None:
        """One finished step: `row` has step, loss, grad_norm, learning_rate, step_seconds,
        imbalance and compiled_graphs.
        """
        self._recent.append(row["step_seconds"])
        self.set(metrics.STEP, row["step"])
        self.set(metrics.LOSS, row["loss"])
        self.set(metrics.GRAD_NORM, row["grad_norm"])
        self.set(metrics.LEARNING_RATE, row["learning_rate"])
        self.set(metrics.IMBALANCE, row["imbalance"])
        self.set(metrics.GRAPHS, row["compiled_graphs"])
        self.set(metrics.PROGRESS_AT, time.time())
        self.set(metrics.ETA, (self._target - row["step"]) * self.step_seconds)
        self._step_seconds.labels(**self._labels).observe(row["step_seconds"])
        for metric, value in (
            (metrics.TOKENS, tokens),
            (metrics.SAMPLES, samples),
            (metrics.FLOPS, flops),
        ):
            self.add(metric, value)
        self._rows.add(row)

    def _gpu(self) -> None:
        """Rank 0's GPU: memory by PyTorch, the rest by NVML where the `gpu` extra is installed."""
        if not torch.cuda.is_available():
            return
        self.set(metrics.GPU_MEMORY, torch.cuda.max_memory_allocated())
        if importlib.util.find_spec("pynvml"):
            self.set(metrics.GPU_UTILIZATION, torch.cuda.utilization() / 100)
            self.set(metrics.GPU_POWER, torch.cuda.power_draw() / 1000)

    def saved(self, saved: Saved) -> None:
        """A checkpoint is committed; one in the store is durable."""
        self.set(metrics.CHECKPOINT_IN_FLIGHT, 0)
        if saved.tier is Tier.STORE:
            self.durable(saved.step, at=time.time())
        else:
            self.set(metrics.NODE_STEP, saved.step)
        self.set(metrics.CHECKPOINT_BYTES, saved.nbytes)
        self.set(metrics.CHECKPOINT_STALL, saved.stall_seconds)
        self.set(metrics.CHECKPOINT_PERSIST, saved.persist_seconds)
        where = "durable" if saved.tier is Tier.STORE else "on the nodes' disks"
        print(
            f"step {saved.step}  checkpoint {where}: {saved.nbytes / 2**20:.1f} MiB in "
            f"{saved.persist_seconds:.2f} s, training waited {saved.stall_seconds:.2f} s",
            flush=True,
        )

    def durable(self, step: int, *, at: float) -> None:
        """The newest checkpoint is of `step` and was committed `at` (unix seconds)."""
        self.set(metrics.DURABLE_STEP, step)
        self.set(metrics.DURABLE_AT, at)
        self._failed_saves = 0
        self.set(metrics.CHECKPOINT_PENDING, 0)

    def held_up(self, step: int, *, seconds: float) -> None:
        """A save was due before the last one had ended, and training waited for that."""
        self.add(metrics.CHECKPOINT_BACKPRESSURE)
        self.add(metrics.CHECKPOINT_BACKPRESSURE_SECONDS, seconds)
        print(
            f"warning: step {step}  the save before was not over: training waited {seconds:.2f} s. "
            "The store is slow, or checkpoint.interval_steps too short for it.",
            flush=True,
        )

    def unsaved(self, failure: SaveFailed) -> None:
        """A save has failed: whoever looks must see it, for training shows no other sign of it."""
        self.set(metrics.CHECKPOINT_IN_FLIGHT, 0)
        self._failed_saves += 1
        self.add(metrics.CHECKPOINT_FAILURES)
        self.set(metrics.CHECKPOINT_PENDING, self._failed_saves)
        print(f"warning: {failure} ({self._failed_saves} in a row)", flush=True)

    def drew(self, counts: Iterable[float]) -> None:
        """Add a step's timesteps, counted by bin: the histogram is stored with the run."""
        self._times = [sum(both) for both in zip(self._times, map(int, counts), strict=True)]

    @property
    def step_seconds(self) -> float:
        """Mean of the recent steps."""
        return sum(self._recent) / max(1, len(self._recent))

    def line(self, *, tokens_per_second: float) -> None:
        """Print the last step for a person."""
        row = self._rows.last
        assert row is not None, "a line before a step"
        print(
            f"step {row['step']:.0f}/{self._target}  loss {row['loss']:.4f}  "
            f"grad {row['grad_norm']:.3f}  lr {row['learning_rate']:.2e}  "
            f"{row['step_seconds']:.2f} s/step  {tokens_per_second:,.0f} tokens/s",
            flush=True,
        )

    def note(self, **values: float) -> None:
        """Add values to the row of the last step, such as a validation loss."""
        if self._rows.last is not None:
            self._rows.last.update(values)

    def flush(self, *, force: bool = False) -> None:
        """Have the rows written if ten seconds have passed; `force` waits for it, within a limit.

        A store that fails costs neither training nor the rows: they are tried again.
        """
        now = time.monotonic()
        if self._rows.last is None or not (force or now - self._flushed_at > _FLUSH_SECONDS):
            return
        self._flushed_at = now
        if not force:  # in the end the GPU may be lost
            self._gpu()  # NVML takes milliseconds: not every step
        self._rows.send()
        times = json.dumps({"bins": BINS, "range": [0, 1], "counts": self._times})
        name = f"{METRICS}/attempt-{self._attempt:04d}-timesteps.json"
        self._courier.send(name, times.encode())
        if force:
            self._courier.drain(seconds=_LAST_FLUSH_SECONDS)

    def _described(self, metric: Metric) -> dict[str, Any]:
        return {
            "name": metric.name,
            "documentation": metric.help,
            "labelnames": [*LABELS, *metric.labels],
            "registry": self._registry,
        }


def _of(kind: str) -> Iterator[Metric]:
    """The metrics of a kind, but for the one that the clock gives."""
    return (m for m in metrics.ALL if m.kind == kind and m is not metrics.TIME_SECONDS)
