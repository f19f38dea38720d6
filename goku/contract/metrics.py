"""Names, units and meaning of every metric, and the classes that every second falls in.

Dashboards, alerts and charts that name a metric are tested against this file.
"""

from enum import StrEnum
from typing import Literal, NamedTuple

LABELS = ("run", "stage", "attempt")  # on every series


class TimeClass(StrEnum):
    """Every second of an attempt belongs to exactly one class; goodput is productive / sum."""

    STARTUP = "startup"  # from the supervisor's start to the first step: imports, process groups
    PRODUCTIVE = "productive"
    DATA_WAIT = "data_wait"  # for samples alone: what ranks wait for one another is productive
    CHECKPOINT_STALL = "checkpoint_stall"
    RESTORE = "restore"
    VALIDATION = "validation"
    ROLLBACK = "rollback"  # steps that an earlier attempt had finished but not saved
    HANG = "hang"
    SHUTDOWN = "shutdown"


class Metric(NamedTuple):
    """One metric family."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()  # besides LABELS


STEP = Metric("goku_step", "gauge", "Last finished optimizer step")
HIGHEST_STEP = Metric("goku_highest_step", "gauge", "Highest step any attempt has finished")
TARGET_STEP = Metric("goku_target_step", "gauge", "Step at which the run is done")
STEP_SECONDS = Metric("goku_step_seconds", "histogram", "Wall seconds of one optimizer step")
# Upper bounds, finest where 1B to 8B train: quantiles are interpolated between them.
STEP_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 4.5, 7, 10, 15, 20, 30, 45, 70, 100, 200, 600)
LOSS = Metric("goku_loss", "gauge", "Training loss of the last logged step")
VALIDATION_LOSS = Metric(
    "goku_validation_loss", "gauge", "Mean loss over stratified t on held-out samples", ("weights",)
)
GRAD_NORM = Metric("goku_grad_norm", "gauge", "Gradient norm before clipping")
LEARNING_RATE = Metric("goku_learning_rate", "gauge", "Learning rate of the last step")
TOKENS = Metric("goku_tokens_total", "counter", "Tokens trained on, padding left out")
SAMPLES = Metric("goku_samples_total", "counter", "Samples trained on")
FLOPS = Metric("goku_model_flops_total", "counter", "Model FLOPs, forward and backward")
IMBALANCE = Metric(
    "goku_imbalance_ratio",
    "gauge",
    "Expected time of the last step over that of ranks that finish together",
)
GRAPHS = Metric(
    "goku_compiled_graphs", "gauge", "Graphs rank 0 has compiled; they end after a few packs"
)
NONFINITE = Metric("goku_nonfinite_steps_total", "counter", "Steps with a NaN or infinite loss")
PROGRESS_AT = Metric(
    "goku_last_progress_timestamp_seconds", "gauge", "Unix time of the last finished step"
)
TIME_SECONDS = Metric(
    "goku_time_seconds_total", "counter", "Seconds of this attempt by class", ("class",)
)
CHECKPOINT_STALL = Metric(
    "goku_checkpoint_stall_seconds", "gauge", "Seconds the last save kept training from going on"
)
CHECKPOINT_PERSIST = Metric(
    "goku_checkpoint_persist_seconds", "gauge", "Seconds from the last save's start to its commit"
)
CHECKPOINT_BYTES = Metric("goku_checkpoint_bytes", "gauge", "Size of the last checkpoint")
CHECKPOINT_IN_FLIGHT = Metric(
    "goku_checkpoint_in_flight", "gauge", "1 while a save is written beside training"
)
CHECKPOINT_BACKPRESSURE = Metric(
    "goku_checkpoint_backpressure_total", "counter", "Saves that were due before the last had ended"
)
CHECKPOINT_BACKPRESSURE_SECONDS = Metric(
    "goku_checkpoint_backpressure_seconds_total", "counter", "Seconds that training waited for them"
)
NODE_STEP = Metric(
    "goku_checkpoint_last_node_step", "gauge", "Step of the last commit to the nodes' own disks"
)
DURABLE_STEP = Metric("goku_checkpoint_last_durable_step", "gauge", "Step of the last commit")
DURABLE_AT = Metric(
    "goku_checkpoint_last_durable_timestamp_seconds", "gauge", "Unix time of the last commit"
)
CHECKPOINT_FAILURES = Metric("goku_checkpoint_failures_total", "counter", "Saves that failed")
CHECKPOINT_PENDING = Metric(
    "goku_checkpoint_consecutive_failures", "gauge", "Saves that failed since the last commit"
)
RESTORE_SECONDS = Metric("goku_restore_seconds", "gauge", "Seconds this attempt took to restore")
GPU_MEMORY = Metric("goku_gpu_memory_peak_bytes", "gauge", "Peak memory allocated on rank 0's GPU")
GPU_UTILIZATION = Metric(
    "goku_gpu_utilization_ratio", "gauge", "Share of time that rank 0's GPU ran any kernel"
)
GPU_POWER = Metric("goku_gpu_power_watts", "gauge", "Power drawn by rank 0's GPU")
ETA = Metric("goku_eta_seconds", "gauge", "Seconds to the target step at the recent step rate")

ALL: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
