"""The chart's Grafana dashboards, written as data: helm/goku-platform/dashboards/*.json.

    python -m scripts.dashboards

Run it after a change here; a test compares. Our metrics come from `goku.contract.metrics`, so a
renamed one changes the panels too. Grafana itself is not needed.
"""

from pathlib import Path
from typing import Any

from goku.contract import metrics as m
from goku.contract.metrics import TimeClass
from goku_platform.jobs import names
from scripts.grafana import Dashboard, Panel, as_json

FOLDER = Path(__file__).parents[1] / "helm" / "goku-platform" / "dashboards"
_RUN = 'namespace=~"$namespace",run=~"$run"'
_OF_RUN = f"{{{_RUN}}}"
_QUEUE = '{cluster_queue=~"$queue"}'
_LABEL = "label_" + names.RUN.replace(".", "_").replace("/", "_")  # as kube-state-metrics writes it


def line(title: str, *queries: str, legend: str = "{{run}}", **options: Any) -> Panel:
    """A panel whose series all have the same legend."""
    return Panel(title=title, queries=tuple((query, legend) for query in queries), **options)


def stat(title: str, query: str, **options: Any) -> Panel:
    """The newest value as a number."""
    return line(title, query, kind="stat", width=4, **options)


def share(*classes: TimeClass) -> str:
    """Expression: the part of a run's time that falls in these classes."""
    matching = "|".join(classes)
    part = f'rate({m.TIME_SECONDS.name}{{{_RUN},class=~"{matching}"}}[$__rate_interval])'
    return f"sum by (run) ({part})"


def quantile(part: float) -> str:
    """Expression: a quantile of the step time."""
    rate = f"rate({m.STEP_SECONDS.name}_bucket{_OF_RUN}[$__rate_interval])"
    return f"histogram_quantile({part}, sum by (le, run) ({rate}))"


def mean(metric: m.Metric) -> str:
    """Expression: a histogram's mean."""
    total, count = (
        f"sum by (run) (rate({metric.name}_{part}{_OF_RUN}[$__rate_interval]))"
        for part in ("sum", "count")
    )
    return f"{total} / {count}"


def per_second(metric: m.Metric) -> str:
    """Expression: a counter's rate."""
    return f"sum by (run) (rate({metric.name}{_OF_RUN}[$__rate_interval]))"


def gauge(metric: m.Metric) -> str:
    """Expression: a gauge of the newest attempt."""
    return f"max by (run) ({metric.name}{_OF_RUN})"


def age(metric: m.Metric) -> str:
    """Expression: seconds since a time stamp."""
    return f"time() - max by (run) ({metric.name}{_OF_RUN})"


_ATTEMPT = (
    "New attempt",
    f"count by (run, attempt) ({m.TARGET_STEP.name}{_OF_RUN}) "
    f"unless count by (run, attempt) ({m.TARGET_STEP.name}{_OF_RUN} offset 2m)",
    "orange",
)
_COMMIT = ("Checkpoint", f"changes({m.DURABLE_STEP.name}{_OF_RUN}[1m]) > 0", "green")
_RUNS = {
    "namespace": f"label_values({m.TARGET_STEP.name}, namespace)",
    "run": f'label_values({m.TARGET_STEP.name}{{namespace=~"$namespace"}}, run)',
}

RUN = Dashboard(
    name="run",
    title="Goku / Run",
    variables=_RUNS,
    events=(_ATTEMPT, _COMMIT),
    panels=(
        stat("Step", gauge(m.STEP)),
        stat("Target", gauge(m.TARGET_STEP)),
        stat("Time to target", gauge(m.ETA), unit="s"),
        stat(
            "Goodput",
            f'sum by (run) (increase({m.TIME_SECONDS.name}{{{_RUN},class="productive"}}[$__range]))'
            f" / sum by (run) (increase({m.TIME_SECONDS.name}{_OF_RUN}[$__range]))",
            unit="percentunit",
            about="Seconds spent on steps that count, of all seconds in the range shown.",
        ),
        stat("Since the last step", age(m.PROGRESS_AT), unit="s"),
        stat("Steps not finite", f"sum by (run) (increase({m.NONFINITE.name}{_OF_RUN}[$__range]))"),
        Panel(
            title="Where the time goes",
            queries=tuple((share(name), f"{{{{run}}}} {name}") for name in TimeClass),
            unit="percentunit",
            about="Every second belongs to one class; the classes sum to 1.",
            width=16,
            stacked=True,
        ),
        line("Steps", gauge(m.STEP), gauge(m.HIGHEST_STEP)),
        line("Loss", gauge(m.LOSS)),
        line(
            "Validation loss",
            f"max by (run, weights) ({m.VALIDATION_LOSS.name}{_OF_RUN})",
            legend="{{run}} {{weights}}",
        ),
        line("Gradient norm", gauge(m.GRAD_NORM)),
        Panel(
            title="Step time",
            queries=(
                (quantile(0.5), "{{run}} p50"),
                (quantile(0.99), "{{run}} p99"),
                (mean(m.STEP_SECONDS), "{{run}} mean"),
            ),
            unit="s",
            about="Quantiles end at the histogram's highest bucket; the mean has no end.",
        ),
        line("Tokens per second", per_second(m.TOKENS)),
        line("Samples per second", per_second(m.SAMPLES)),
        line("Model FLOPs per second", per_second(m.FLOPS), about="Forward and backward."),
        line("Learning rate", gauge(m.LEARNING_RATE)),
        line("Data wait", share(TimeClass.DATA_WAIT), unit="percentunit"),
        line(
            "Imbalance of ranks",
            gauge(m.IMBALANCE),
            about="Expected time of a step over that of ranks that finish together; 1 is perfect.",
        ),
        line("Compiled graphs", gauge(m.GRAPHS), about="Growing on and on, they cost speed."),
    ),
)

CHECKPOINTS = Dashboard(
    name="checkpoints",
    title="Goku / Checkpoints",
    variables=_RUNS,
    events=(_ATTEMPT, _COMMIT),
    panels=(
        stat("Last durable step", gauge(m.DURABLE_STEP)),
        stat("Its age", age(m.DURABLE_AT), unit="s"),
        stat("Size", gauge(m.CHECKPOINT_BYTES), unit="bytes"),
        stat("Restore", gauge(m.RESTORE_SECONDS), unit="s"),
        stat(
            "Failed saves",
            f"sum by (run) (increase({m.CHECKPOINT_FAILURES.name}{_OF_RUN}[$__range]))",
        ),
        stat(
            "Steps at risk",
            f"{gauge(m.STEP)} - {gauge(m.DURABLE_STEP)}",
            about="What a kill without grace would cost now.",
        ),
        line("Age of the last durable checkpoint", age(m.DURABLE_AT), unit="s"),
        line("Training waits for a save", gauge(m.CHECKPOINT_STALL), unit="s"),
        line("From start to commit", gauge(m.CHECKPOINT_PERSIST), unit="s"),
        line(
            "Upload",
            f"{gauge(m.CHECKPOINT_BYTES)} / {gauge(m.CHECKPOINT_PERSIST)}",
            unit="Bps",
        ),
        line(
            "Time in saves and restores",
            share(TimeClass.CHECKPOINT_STALL, TimeClass.RESTORE),
            unit="percentunit",
        ),
        line("Saves that failed in a row", gauge(m.CHECKPOINT_PENDING)),
        line(
            "Held up by the save before",
            per_second(m.CHECKPOINT_BACKPRESSURE_SECONDS),
            unit="percentunit",
            about="A save was due before the last was over: the interval is short for this store.",
        ),
        line(
            "Saves that were held up",
            f"sum by (run) (increase({m.CHECKPOINT_BACKPRESSURE.name}{_OF_RUN}[$__rate_interval]))",
        ),
        line("A save is under way", gauge(m.CHECKPOINT_IN_FLIGHT)),
        line("Last step on the nodes' own disks", gauge(m.NODE_STEP)),
        line("Time on steps done before", share(TimeClass.ROLLBACK), unit="percentunit"),
    ),
)


def of_gpus(expression: str) -> str:
    """Expression: a DCGM series of the run's pods, by pod and GPU.

    The exporter names the pod that uses a GPU `exported_pod`; kube-state-metrics knows its labels.
    """
    renamed = (
        f'label_replace(label_replace({expression}, "namespace", "$1", "exported_namespace", '
        f'"(.+)"), "pod", "$1", "exported_pod", "(.+)")'
    )
    run = f'kube_pod_labels{{namespace=~"$namespace",{_LABEL}=~"$run"}}'
    return f"max by (pod, gpu) ({renamed} and on (namespace, pod) {run})"


def gpu_line(title: str, expression: str, **options: Any) -> Panel:
    """A line a GPU."""
    return line(title, of_gpus(expression), legend="{{pod}} gpu {{gpu}}", **options)


GPUS = Dashboard(
    name="gpus",
    title="Goku / GPUs",
    variables={
        "namespace": f"label_values(kube_pod_labels{{{_LABEL}!=''}}, namespace)",
        "run": f'label_values(kube_pod_labels{{namespace=~"$namespace"}}, {_LABEL})',
    },
    panels=(
        gpu_line(
            "Tensor cores active",
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
            unit="percentunit",
            about="Work done. GPU utilization only says that some kernel ran.",
            width=16,
        ),
        gpu_line("SMs active", "DCGM_FI_PROF_SM_ACTIVE", unit="percentunit"),
        gpu_line("Memory used", "DCGM_FI_DEV_FB_USED", unit="decmbytes"),
        gpu_line("Power", "DCGM_FI_DEV_POWER_USAGE", unit="watt"),
        gpu_line("Temperature", "DCGM_FI_DEV_GPU_TEMP", unit="celsius"),
        gpu_line("SM clock", "DCGM_FI_DEV_SM_CLOCK * 1e6", unit="hertz"),
        gpu_line(
            "Slowed by heat", "rate(DCGM_FI_DEV_THERMAL_VIOLATION[5m]) / 1e9", unit="percentunit"
        ),
        gpu_line(
            "Slowed by power", "rate(DCGM_FI_DEV_POWER_VIOLATION[5m]) / 1e9", unit="percentunit"
        ),
        gpu_line("Last XID", "DCGM_FI_DEV_XID_ERRORS > 0", kind="table"),
        gpu_line("Uncorrected memory errors", "increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL[$__range])"),
        gpu_line("Rows remapped", "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"),
        gpu_line(
            "NVLink retries", "increase(DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL[$__range])"
        ),
        gpu_line(
            "NVLink recoveries", "increase(DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL[$__range])"
        ),
        line("Peak memory of rank 0", gauge(m.GPU_MEMORY), unit="bytes"),
        line("Utilization of rank 0", gauge(m.GPU_UTILIZATION), unit="percentunit"),
        line("Power of rank 0", gauge(m.GPU_POWER), unit="watt"),
    ),
)


def per_queue(metric: str, *, by: str = "cluster_queue") -> str:
    """Expression: a Kueue gauge summed over what is not asked for."""
    return f"sum by ({by}) ({metric}{_QUEUE})"


def wait(metric: str) -> str:
    """Expression: the 95th percentile of a Kueue wait."""
    rate = f"rate({metric}_bucket{_QUEUE}[$__rate_interval])"
    return f"histogram_quantile(0.95, sum by (le, cluster_queue) ({rate}))"


_RESOURCE = "cluster_queue, flavor, resource"
QUEUES = Dashboard(
    name="queues",
    title="Goku / Queues",
    variables={"queue": "label_values(kueue_cluster_queue_status, cluster_queue)"},
    panels=(
        line(
            "Quota used",
            f"{per_queue('kueue_cluster_queue_resource_usage', by=_RESOURCE)}"
            f" / ({per_queue('kueue_cluster_queue_nominal_quota', by=_RESOURCE)} > 0)",
            legend="{{cluster_queue}} {{flavor}} {{resource}}",
            unit="percentunit",
            width=16,
        ),
        line(
            "Waiting",
            per_queue("kueue_pending_workloads", by="cluster_queue, status"),
            legend="{{cluster_queue}} {{status}}",
        ),
        line("Running", per_queue("kueue_admitted_active_workloads"), legend="{{cluster_queue}}"),
        line(
            "Wait for admission, p95",
            wait("kueue_admission_wait_time_seconds"),
            legend="{{cluster_queue}}",
            unit="s",
        ),
        line(
            "From admission to ready, p95",
            wait("kueue_admitted_until_ready_wait_time_seconds"),
            legend="{{cluster_queue}}",
            unit="s",
        ),
        line(
            "Evictions an hour",
            f"sum by (cluster_queue, reason) (increase(kueue_evicted_workloads_total{_QUEUE}[1h]))",
            legend="{{cluster_queue}} {{reason}}",
        ),
        line(
            "Preemptions an hour",
            "sum by (preempting_cluster_queue, reason) (increase("
            'kueue_preempted_workloads_total{preempting_cluster_queue=~"$queue"}[1h]))',
            legend="{{preempting_cluster_queue}} {{reason}}",
        ),
        line(
            "Pods of runs by phase",
            "sum by (namespace, phase) (kube_pod_status_phase"
            f' and on (namespace, pod) kube_pod_labels{{{_LABEL}!=""}})',
            legend="{{namespace}} {{phase}}",
        ),
    ),
)

ALL = (RUN, CHECKPOINTS, GPUS, QUEUES)


if __name__ == "__main__":
    for each in ALL:
        (FOLDER / f"{each.name}.json").write_text(as_json(each))
