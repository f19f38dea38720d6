"""What a server says no with, and what its silence looks like, as value, rule and fix."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from goku_platform.cluster.kube.api import PODS, Api, Collection
from goku_platform.cluster.kube.refusals import Refused, Unreachable, refused
from goku_platform.errors import TargetError

TOKEN = "a-secret-token"


def answer(status: int, message: str) -> Refused:
    body = json.dumps({"kind": "Status", "message": message}).encode()
    return refused(status, body, what="Job a", namespace="goku")


def test_a_missing_right_names_verb_resource_namespace_and_the_role() -> None:
    error = answer(
        403,
        'jobsets.jobset.x-k8s.io "a" is forbidden: User "system:serviceaccount:x:y" cannot get '
        'resource "jobsets" in API group "jobset.x-k8s.io" in the namespace "goku"',
    )
    assert error.of_rights
    assert str(error) == (
        "get jobsets.jobset.x-k8s.io in namespace goku: system:serviceaccount:x:y may not. "
        "Ask for the Role of the chart (helm/goku-platform, or its manifests), which grants it."
    )


def test_a_core_resource_has_no_group() -> None:
    text = (
        'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace'
    )
    assert answer(403, text).value == "list pods in namespace goku"


def test_a_policy_is_told_in_its_own_words() -> None:
    error = answer(403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest": x')
    assert not error.of_rights
    assert "violates PodSecurity" in error.rule


def test_a_schema_error_keeps_the_servers_message() -> None:
    error = answer(422, 'Job.batch "a" is invalid: spec.completions: Required value')
    assert "spec.completions: Required value" in str(error)


def test_a_login_that_has_run_out() -> None:
    assert answer(401, "Unauthorized").rule == "the API server does not know you (401)"


def test_a_kind_that_is_not_served() -> None:
    error = refused(404, b"404 page not found\n", what="JobSet a", namespace="n")
    assert error.rule == "the cluster does not serve this kind of object"


def test_an_answer_without_json_is_still_an_error() -> None:
    assert refused(502, b"<html>Bad gateway", what="x", namespace="n").rule == "<html>Bad gateway"
    assert refused(503, b"", what="x", namespace="n").rule == "the API server answered 503"


def kubeconfig(folder: Path, server: str) -> Path:
    """A kubeconfig for one server, with a token that must never be shown."""
    file = folder / "kubeconfig"
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    file.write_text(yaml.safe_dump(tree))
    return file


@contextmanager
def listening(reply: bytes) -> Iterator[str]:
    """A server that answers one connection after another with the same bytes, or never."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if not reply:
                        time.sleep(5)
                    connection.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def api(monkeypatch: pytest.MonkeyPatch, file: Path, context: str | None = None) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return Api(context=context, namespace="goku", timeout_seconds=0.5)


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{free.getsockname()[1]}"
        client = api(monkeypatch, kubeconfig(tmp_path, f"http://{server}"))
        with pytest.raises(
            Unreachable, match=f"{server}: it cannot be reached .Connection refused"
        ):
            client.get("/version", what="version")
    assert client.requests == 1  # a retry would double the time


def test_a_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(b"") as server:
        client = api(monkeypatch, kubeconfig(tmp_path, server))
        client.begin()
        begun = time.monotonic()
        with pytest.raises(Unreachable, match=r"it did not answer within 0\.5 s"):
            client.get("/version", what="version")
        assert time.monotonic() - begun < 2


def test_a_busy_server_is_asked_again_while_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = (
        b"HTTP/1.1 429 Too Many\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    with listening(busy) as server:
        client = api(monkeypatch, kubeconfig(tmp_path, server))
        client.begin()
        with pytest.raises(TargetError, match=r"the API server answered 429|did not answer"):
            client.get("/version", what="version")
    assert client.requests > 1


def test_a_connection_that_breaks_shows_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{") as server:
        client = api(monkeypatch, kubeconfig(tmp_path, server))
        with pytest.raises(Unreachable) as caught:
            client.get("/version", what="version")
    assert TOKEN not in str(caught.value)
    assert "the connection broke" in str(caught.value)


def test_a_context_that_is_not_in_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = api(monkeypatch, kubeconfig(tmp_path, "http://127.0.0.1:1"), context="elsewhere")
    with pytest.raises(TargetError, match=r"context elsewhere of .*no usable kubeconfig"):
        client.get("/version", what="version")


def test_a_machine_without_a_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = api(monkeypatch, tmp_path / "absent")
    with pytest.raises(TargetError, match="there is no usable kubeconfig"):
        client.get("/version", what="version")


def test_paths_of_core_and_custom_resources() -> None:
    assert PODS.path("goku", "a", "log") == "/api/v1/namespaces/goku/pods/a/log"
    jobs = Collection("jobset.x-k8s.io/v1alpha2", "jobsets")
    assert jobs.path("goku") == "/apis/jobset.x-k8s.io/v1alpha2/namespaces/goku/jobsets"
    assert PODS.path(None) == "/api/v1/pods"
