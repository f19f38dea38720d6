"""Requests to one API server as plain JSON; the only importer of the `kubernetes` package.

The package gives what every cluster does its own way: kubeconfig, logins by plugins, certificates,
proxies. Its models and its dynamic client are left alone: the first know no custom resource, the
second asks dozens of questions before its first. It costs a second or two, so it is imported on the
first request. Requests are counted, since a verb must not cost more on a larger job.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import urllib3
import urllib3.exceptions as http

from goku_platform.cluster.kube.refusals import Refused, refused, unreachable
from goku_platform.errors import TargetError
from goku_platform.jobs import names

Json = dict[str, Any]

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_STREAM_SECONDS = 240  # a watch ends by itself and is opened again: middleboxes cut idle ones
_SILENCE_SECONDS = 270.0
_RETRY_SECONDS = 0.5
_BUSY = 429


class Collection(NamedTuple):
    """Where objects of one type are kept."""

    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", part: str = "") -> str:
        """Of the collection, of one object in it, or of a subresource of that."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        place = f"/namespaces/{namespace}" if namespace else ""
        tail = "".join(f"/{piece}" for piece in (name, part) if piece)
        return f"{root}{self.api_version}{place}/{self.plural}{tail}"


PODS = Collection("v1", "pods")
EVENTS = Collection("v1", "events")


class Api:
    """One server, one user, one namespace; every call keeps to a time budget."""

    def __init__(self, *, context: str | None, namespace: str, timeout_seconds: float) -> None:
        self.namespace = namespace
        self.requests = 0  # so far
        self._context = context
        self._timeout = timeout_seconds
        self._deadline: float | None = None
        self._reached = False  # whether the server has ever answered

    def begin(self) -> None:
        """Give the requests that follow, together, the whole time budget."""
        _ = self._login  # importing and logging in is not the server's time
        self._deadline = time.monotonic() + self._timeout

    @property
    def seconds_left(self) -> float:
        """Of the budget; all of it if it was not begun."""
        left = self._timeout if self._deadline is None else self._deadline - time.monotonic()
        return max(left, 0.0)

    @property
    def server(self) -> str:
        """Its address, for people."""
        host: str = self._login.configuration.host
        return urlsplit(host).netloc.rpartition("@")[2]

    @cached_property
    def served(self) -> frozenset[str]:
        """Every `group/version` that the server has now: one request, then remembered."""
        groups = self.get("/apis", what="the server's API groups")["groups"]
        return frozenset(one["groupVersion"] for group in groups for one in group["versions"])

    def get(self, path: str, *, what: str, **query: object) -> Json:
        """An object or a list. Raises TargetError."""
        answer: Json = json.loads(self._ask("GET", path, what=what, query=query))
        return answer

    def find(self, path: str, *, what: str, metadata_only: bool = False) -> Json | None:
        """An object, or None if it is not there. A Secret's values can be left where they are."""
        accept = _METADATA if metadata_only else _JSON
        try:
            answer: Json = json.loads(self._ask("GET", path, what=what, accept=accept))
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return answer

    def pages(self, path: str, *, what: str, limit: int = 500, **query: object) -> Iterator[Json]:
        """Every object of a list, page by page."""
        token = ""
        while True:
            page = self.get(path, what=what, limit=limit, **{"continue": token}, **query)
            yield from page.get("items", [])
            token = page["metadata"].get("continue", "")
            if not token:
                return

    def create(self, path: str, body: Mapping[str, Any], *, what: str, dry_run: bool) -> Json:
        """Make an object that is not there; unknown fields are errors. Raises TargetError."""
        query = {
            "fieldManager": names.FIELD_MANAGER,
            "fieldValidation": "Strict",
            "dryRun": "All" if dry_run else "",
        }
        answer: Json = json.loads(self._ask("POST", path, what=what, query=query, body=body))
        return answer

    def ask(self, path: str, body: Mapping[str, Any], *, what: str) -> Json:
        """A question that is put as an object, such as a review of rights."""
        answer: Json = json.loads(self._ask("POST", path, what=what, body=body))
        return answer

    def apply(self, path: str, body: Mapping[str, Any], *, what: str) -> Json:
        """Server-side apply; a field that someone else owns is an error, not overwritten."""
        query = {"fieldManager": names.FIELD_MANAGER, "fieldValidation": "Strict", "force": "false"}
        answer: Json = json.loads(
            self._ask("PATCH", path, what=what, query=query, body=body, content=_APPLY)
        )
        return answer

    def delete(
        self,
        path: str,
        *,
        what: str,
        owned_first: bool = True,
        grace: int | None = None,
        uid: str = "",
        **query: object,
    ) -> bool:
        """Delete an object and what it owns. False if it (or the one of this uid) is not there.

        On a collection, the query selects what goes.
        """
        body: Json = {"propagationPolicy": "Foreground" if owned_first else "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._ask("DELETE", path, what=what, query=query, body=body)
        except Refused as error:
            if error.status == 404 or (uid and error.status == 409):
                return False
            raise
        return True

    def watch(self, path: str, *, what: str, version: str, **query: object) -> "Stream":
        """Changes since a resourceVersion, as JSON lines."""
        wanted = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _STREAM_SECONDS,
        }
        return self.stream(path, what=what, **wanted, **query)

    def stream(self, path: str, *, what: str, **query: object) -> "Stream":
        """Lines as the server writes them. Raises TargetError at the start and in between."""
        return Stream(self, self._send("GET", path, what=what, query=query, streams=True))

    def broken(self, error: http.HTTPError) -> TargetError:
        """The error for a connection that broke or never was."""
        return unreachable(error, server=self.server, seconds=self._timeout)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = _JSON,
        accept: str = _JSON,
    ) -> bytes:
        response = self._send(
            method, path, what=what, query=query, body=body, content=content, accept=accept
        )
        return response.data

    def _send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = _JSON,
        accept: str = _JSON,
        streams: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        given = {key: value for key, value in (query or {}).items() if value not in ("", None)}
        address = f"{self._login.configuration.host}{path}{'?' if given else ''}{urlencode(given)}"
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": names.FIELD_MANAGER}
        self._login.update_params_for_auth(headers, [], ["BearerToken"])
        if self._deadline is None:
            self.begin()
        while True:
            left = max(self.seconds_left, 0.001)
            silence = _SILENCE_SECONDS if streams else left
            self.requests += 1
            try:
                response: urllib3.BaseHTTPResponse = self._login.rest_client.pool_manager.request(
                    method,
                    address,
                    body=None if body is None else json.dumps(body),
                    headers=headers,
                    timeout=urllib3.Timeout(connect=left, read=silence),
                    preload_content=not streams,
                    retries=False,  # each would take the whole time again
                )
            except http.HTTPError as error:
                if not self._is_worth_another(method, error):
                    raise self.broken(error) from None
                time.sleep(_RETRY_SECONDS)
                continue
            self._reached = True
            if 200 <= response.status < 300:
                return response
            pause = float(response.headers.get("Retry-After", 1))
            if not _is_busy(response) or pause >= self.seconds_left:
                raise refused(response.status, response.data, what=what, namespace=self.namespace)
            time.sleep(pause)

    def _is_worth_another(self, method: str, error: http.HTTPError) -> bool:
        """A server that was there is perhaps restarting. What may have been done is not repeated,
        and who does not listen to begin with is not waited for."""
        unsent = isinstance(error, http.NewConnectionError)
        harmless = unsent or (method == "GET" and isinstance(error, http.ProtocolError))
        return self._reached and harmless and self.seconds_left > _RETRY_SECONDS

    @cached_property
    def _login(self) -> Any:
        """The package's ApiClient: its pool of connections and its headers of authentication."""
        from kubernetes import client, config

        configuration = client.Configuration()
        file = os.environ.get("KUBECONFIG") or "~/.kube/config"  # the package looks only once
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and not Path(file).expanduser().exists():
                config.load_incluster_config(configuration)
            else:
                config.load_kube_config(
                    file, context=self._context, client_configuration=configuration
                )
        except (config.ConfigException, OSError) as error:
            raise TargetError(
                f"context {self._context or '(current)'} of {file}",
                f"there is no usable kubeconfig ({error})",
                "Set KUBECONFIG, and context in the profile: kubectl config get-contexts.",
            ) from None
        return client.ApiClient(configuration)


def _is_busy(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether it did nothing and asks to be asked again: overloaded, or still starting."""
    return response.status == _BUSY or b"please try again" in response.data


class Stream:
    """An answer that goes on. Close it from any thread; its reader then ends."""

    def __init__(self, api: Api, response: urllib3.BaseHTTPResponse) -> None:
        self._api, self._response, self._closed = api, response, False

    def __iter__(self) -> Iterator[bytes]:
        partial = b""
        try:
            for chunk in self._response.stream(1 << 16):
                if self._closed:
                    return
                *whole, partial = (partial + chunk).split(b"\n")
                yield from whole
        except Exception as error:
            if self._closed:
                return
            if isinstance(error, http.HTTPError):
                raise self._api.broken(error) from None
            raise
        finally:
            self._response.close()
        if partial and not self._closed:
            yield partial

    def close(self) -> None:
        """Wake a reader that waits for bytes, and give the connection up.

        What it reads then is rubbish or an error of any kind: its socket has lost its TLS.
        """
        self._closed = True
        with suppress(ValueError, OSError):  # it is over already
            self._response.shutdown()
