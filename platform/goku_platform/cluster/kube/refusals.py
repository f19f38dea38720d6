"""What the API server, or the way to it, says no with: as errors that name value, rule and fix.

The server's own message is kept where it is the reason (admission, validation, quota): it names the
policy that was broken. Nothing here ever sees a header, so no token can get into a message.
"""

import json
import re
from typing import Any

import urllib3.exceptions as http

from goku_platform.errors import TargetError

_ROLE = "Ask for the Role of the chart (helm/goku-platform, or its manifests), which grants it."
_DENIED = re.compile(r'User "(?P<user>.*?)" cannot (?P<verb>\w+) resource "(?P<what>.*?)"')
_NO_PATH = "page not found"  # plain text, where a missing object gets a Status
_GROUP = re.compile(r'in API group "(.+?)"')


class Refused(TargetError):
    """The API server answered, and did not do it."""

    def __init__(self, status: int, value: str, rule: str, fix: str) -> None:
        super().__init__(value, rule, fix)
        self.status = status

    @property
    def of_rights(self) -> bool:
        """Whether the user may not do this, rather than that it is wrong in itself."""
        return self.status == 403 and "may not" in self.rule


class Unreachable(TargetError):
    """No answer, or none in time. It may be there again in a moment."""


def refused(status: int, body: bytes, *, what: str, namespace: str) -> Refused:
    """The error for an answer that is not a success. `what` is the object, for people."""
    message = _message(body)
    denied = _DENIED.search(message)
    if status == 403 and denied:
        group = _GROUP.search(message)
        resource = denied["what"] + (f".{group[1]}" if group else "")
        return Refused(
            status,
            f"{denied['verb']} {resource} in namespace {namespace}",
            f"{denied['user']} may not",
            _ROLE,
        )
    if status == 401:
        return Refused(status, what, "the API server does not know you (401)", "Log in again.")
    if status == 404 and _NO_PATH in message:
        return Refused(status, what, "the cluster does not serve this kind of object", _fix(status))
    return Refused(status, what, message or f"the API server answered {status}", _fix(status))


def _fix(status: int) -> str:
    if status in (400, 403, 422):
        return "The cluster's policy or its schema refuses it: change the profile accordingly."
    if status == 404:
        return "See what there is: goku-platform doctor."
    if status == 409:
        return "Someone else changes it: look again, then repeat."
    return "Look at the API server and the operator whose webhook it names; then try again."


def _message(body: bytes) -> str:
    """Of a Status object; what is not JSON (an unknown path, a proxy's page) says little."""
    try:
        status: dict[str, Any] = json.loads(body)
        return str(status.get("message", "")).strip()
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace").strip()


def unreachable(error: http.HTTPError, *, server: str, seconds: float) -> TargetError:
    """The error for a request without an answer."""
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, http.SSLError) or "CERTIFICATE_VERIFY" in str(cause):
        return TargetError(
            f"API server {server}",
            "its certificate is not trusted",
            "Put this cluster's certificate authority in the kubeconfig, or use another context.",
        )
    if isinstance(cause, http.NameResolutionError):
        rule = "its name does not resolve"
    elif isinstance(cause, http.NewConnectionError):  # to urllib3 this is a kind of timeout
        rule = f"it cannot be reached ({_short(cause)})"
    elif isinstance(cause, http.TimeoutError):
        rule = f"it did not answer within {seconds:g} s"
    else:
        rule = f"the connection broke ({_short(cause)})"
    fix = "Check the network, choose another context in the profile, or give it more --timeout."
    return Unreachable(f"API server {server}", rule, fix)


def _short(error: BaseException) -> str:
    """The last words of a chain: `Connection refused`."""
    for inner in error.args:
        if isinstance(inner, Exception):
            return _short(inner)
    return re.sub(r"\[Errno \d+\] ", "", str(error)).rpartition(": ")[2].strip("()'")
