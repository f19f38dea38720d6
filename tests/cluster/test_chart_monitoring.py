"""A real Prometheus scrapes pods as the PodMonitor says, and can answer every panel and alert.

prometheus-operator itself does not run here: its CRDs accept the objects (test_chart_installed),
and the monitor's endpoint is put into Prometheus' own words below, field by field.
"""

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from goku.contract import metrics
from goku_platform.jobs import names
from tests.chart.chart import CHART, ROOT, RULES, VALUES, loaded, queries, rules
from tests.cluster.cluster import Cluster
from tests.cluster.helm import objects, template
from tests.cluster.s3 import free_port

ALERTS = ROOT / "tests" / "chart" / "alerts.yaml"
PORT = 9465  # of the pods: everything.yaml
NAMESPACE = "goku-monitored"  # not everything.yaml's: another test installs that
_MAKERS: dict[str, Any] = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}
# What Grafana puts in.
_VARIABLES = {
    "$namespace": ".*",
    "$run": ".*",
    "$queue": ".*",
    "$__rate_interval": "1m",
    "$__range": "1h",
}


def promtool(*words: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_no_fault_in_the_rules() -> None:
    promtool("check", "rules", *RULES)


def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", ALERTS)


def test_every_alert_is_made_to_fire() -> None:
    text = ALERTS.read_text()
    assert [rule["alert"] for rule in rules() if rule["alert"] not in text] == []
    assert {str(Path(path).name) for path in loaded(ALERTS)["rule_files"]} == {
        path.name for path in RULES
    }


class Prometheus:
    """A server of its own on this machine."""

    def __init__(self, address: str) -> None:
        self._server = f"http://{address}"

    def get(self, path: str, **query: str) -> Any:
        """The answer's data; an error of the server is an answer too."""
        url = f"{self._server}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            text = error.read()
        answer = json.loads(text)
        assert answer["status"] == "success", answer
        return answer["data"]

    def ready(self) -> bool:
        """Whether it answers; it says 503 while it starts."""
        try:
            with urllib.request.urlopen(f"{self._server}/-/ready", timeout=10):
                return True
        except OSError:
            return False

    def targets(self) -> list[dict[str, Any]]:
        return list(self.get("targets", state="active")["activeTargets"])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes a namespace with pods of four kinds; ready when it has scraped them."""
    cluster, folder = Cluster.attach(), tmp_path_factory.mktemp("prometheus")
    with cluster.namespace(NAMESPACE):
        cluster.apply([*_pods(cluster)])
        cluster.kubectl(
            *("wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"),
            *("--namespace", NAMESPACE),
        )
        with _served(folder, cluster) as server:
            cluster.wait(
                lambda: sum(target["health"] == "up" for target in server.targets()) == 2,
                seconds=90,
                what="two pods scraped",
            )
            time.sleep(3)  # a rate needs two scrapes
            yield server


def test_only_node_0_of_training_runs_is_scraped(prometheus: Prometheus) -> None:
    found = {target["labels"]["pod"]: target["labels"] for target in prometheus.targets()}
    assert found.keys() == {"first-of-jobset", "first-of-pytorchjob"}
    assert {labels["job"] for labels in found.values()} == {"goku"}
    assert {labels["namespace"] for labels in found.values()} == {NAMESPACE}


@pytest.mark.parametrize(("place", "query"), [*queries()], ids=[place for place, _ in queries()])
def test_every_expression_is_one(prometheus: Prometheus, place: str, query: str) -> None:
    prometheus.get("query", query=_filled(query))


def test_the_panels_of_a_run_show_something(prometheus: Prometheus) -> None:
    """All but those that need what this run has not done in its seconds: saves that failed."""
    empty = [
        place
        for place, query in queries()
        if place.startswith(("run:", "checkpoints:"))
        and not prometheus.get("query", query=_filled(query))["result"]
    ]
    assert set(empty) <= {"run: Checkpoint", "checkpoints: Checkpoint"}


def test_the_rules_are_loaded_and_healthy(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    loaded_rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in loaded_rules} == {rule["alert"] for rule in rules()}
    assert {rule["health"] for rule in loaded_rules} <= {"ok", "unknown"}


def _filled(query: str) -> str:
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    return query


def _series(run: str) -> str:
    """What rank 0 serves: every metric of the contract, once per value of its own label."""
    registry = CollectorRegistry()
    for metric in metrics.ALL:
        labels = [*metrics.LABELS, *metric.labels]
        made = _MAKERS[metric.kind](metric.name, metric.help, labels, registry=registry)
        values = metrics.TimeClass if metric is metrics.TIME_SECONDS else ("some",)
        for value in values if metric.labels else ("",):
            own = [value] * len(metric.labels)
            _count(metric, made.labels(run, "stage2", "1", *own))
    return generate_latest(registry).decode()


def _count(metric: metrics.Metric, series: Any) -> None:
    if metric.kind == "gauge":
        series.set(time.time() if "timestamp" in metric.name else 7)
    elif metric.kind == "counter":
        series.inc(7)
    else:
        series.observe(7)


def _pods(cluster: Cluster) -> Iterator[dict[str, Any]]:
    kinds = {
        "first-of-jobset": {names.JOB: "train", names.COMPLETION_INDEX: "0"},
        "second-of-jobset": {names.JOB: "train", names.COMPLETION_INDEX: "1"},
        "first-of-pytorchjob": {names.JOB: "train", names.REPLICA_INDEX: "0"},
        "curation": {names.JOB: "curate", names.COMPLETION_INDEX: "0"},
    }
    for name, labels in kinds.items():
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "data": {"metrics": _series(name)},
        }
        yield _pod(cluster, name, {names.RUN: name, **labels})


def _pod(cluster: Cluster, name: str, labels: dict[str, str]) -> dict[str, Any]:
    container = {
        "name": "node",
        "image": cluster.busybox,
        "imagePullPolicy": "Never",
        "command": ["/bin/httpd", "-f", "-p", str(PORT), "-h", "/served"],
        "ports": [{"name": "metrics", "containerPort": PORT}],
        "volumeMounts": [{"name": "served", "mountPath": "/served"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "served", "configMap": {"name": name}}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }


def _configuration(cluster: Cluster) -> dict[str, Any]:
    """The PodMonitor of everything.yaml as a scrape configuration."""
    values = VALUES / "everything.yaml"
    words = ("--show-only", "templates/podmonitor.yaml", "--set", f"namespace.name={NAMESPACE}")
    [monitor] = objects(template(CHART, "--values", values, *words))
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    pod = "__meta_kubernetes_pod"
    selected = [
        {
            "action": "keep",
            "source_labels": [_label(key)],
            "regex": value,
        }
        for key, value in monitor["spec"]["selector"]["matchLabels"].items()
    ]
    fixed = [
        {
            "action": "keep",
            "source_labels": [f"{pod}_container_port_name"],
            "regex": endpoint["port"],
        },
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": [f"{pod}_name"], "target_label": "pod"},
    ]
    spelt = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    own = [
        {spelt.get(key, key): value for key, value in rule.items()}
        for rule in endpoint["relabelings"]
    ]
    scrape = {
        "job_name": "monitor",
        "scrape_interval": "1s",  # not the monitor's: a test does not wait
        "static_configs": [*_discovered(cluster, monitor["metadata"]["namespace"])],
        "relabel_configs": [*selected, *fixed, *own],
    }
    return {
        "global": {"evaluation_interval": "1s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [scrape],
    }


def _discovered(cluster: Cluster, namespace: str) -> Iterator[dict[str, Any]]:
    """Every port of every pod, under the labels of Prometheus' own discovery in Kubernetes, which
    Debian's Prometheus is built without."""
    for pod in cluster.pods(namespace):
        meta = "__meta_kubernetes_pod"
        labels = {
            "__meta_kubernetes_namespace": namespace,
            f"{meta}_name": pod["metadata"]["name"],
            **{_label(key): value for key, value in pod["metadata"]["labels"].items()},
        }
        for container in pod["spec"]["containers"]:
            for port in container["ports"]:
                named = {**labels, f"{meta}_container_port_name": port["name"]}
                address = f"{pod['status']['podIP']}:{port['containerPort']}"
                yield {"targets": [address], "labels": named}


def _label(key: str) -> str:
    return "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", key)


@contextmanager
def _served(folder: Path, cluster: Cluster) -> Iterator[Prometheus]:
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(_configuration(cluster)))
    promtool("check", "config", file)
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], stdout=log, stderr=log
        )
        try:
            server = Prometheus(address)
            cluster.wait(server.ready, seconds=60, what="Prometheus")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)
