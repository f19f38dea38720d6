"""The connection to an S3 server, and what its answers mean.

Everything about the account comes from where AWS's own tools look: AWS_ENDPOINT_URL, AWS_REGION,
AWS_PROFILE, AWS_ACCESS_KEY_ID, a web identity or the node's role, ~/.aws. With an endpoint of its
own boto3 writes the bucket into the path, so that servers without wildcard names work.
"""

import errno
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError

from goku.contract.store.errors import StoreError, StoreUnavailable

# Together they bound what a call to a server that is away costs: about 7 s when it refuses to
# connect, 90 s when it accepts and stays silent. Savers have their own retry: the next interval.
_ATTEMPTS = 4  # of one request; standard mode waits up to 1, 2 and 4 s in between
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 20.0  # of silence; S3's own slowest answers come within a few
_CONNECTIONS = 32  # threads of a process that read ahead and upload parts at once

_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
# No answer, one that breaks off, or one that is not S3's: a proxy's page while a server restarts.
AWAY = (
    NoConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
)
_BUSY_CODES = {"SlowDown", "RequestTimeout", "ThrottlingException", "RequestLimitExceeded"}
_IDENTITY_CODES = {
    "InvalidAccessKeyId": "the server does not know the access key",
    "XAdminUserNotFound": "the server does not know the access key",  # as versitygw puts it
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much",
}

_clients: dict[tuple[tuple[str, str], ...], Any] = {}
_lock = threading.Lock()


def client() -> Any:
    """This process's client: made once, because that takes a tenth of a second; thread-safe.

    AWS_* variables are the key, so that a process that changes them speaks to the other server.
    """
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _lock:
        if environment not in _clients:
            _clients[environment] = _connect()
        return _clients[environment]


def _connect() -> Any:
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
    )
    try:
        return Session().client("s3", config=config)
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        raise StoreError(f"s3: {_public(error)}. Correct AWS_ENDPOINT_URL.") from None


def _forget() -> None:
    """A child must not speak on its parent's sockets, nor wait for a lock that a thread held."""
    global _lock
    _clients.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def code(error: ClientError) -> str:
    """The server's word for what is wrong; a status such as "404" where an answer has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def was_retried(error: ClientError) -> bool:
    """Whether the request was sent more than once, so that an earlier copy may have worked."""
    return bool(error.response.get("ResponseMetadata", {}).get("RetryAttempts"))


def told(answer: Mapping[str, Any], field: str) -> Any:
    """A field of an answer. One that broke off within its head looks whole and lacks it.

    Raises one of AWAY, which `translated` makes a StoreUnavailable of.
    """
    if field not in answer:
        raise HTTPClientError(error=f"an answer without {field}: it broke off")
    return answer[field]


def fill(buffers: Sequence[memoryview], body: Any) -> int:
    """Read an answer's body into the buffers, one after the other; how many bytes there were.

    Raises one of AWAY where the body breaks off. botocore's own `readinto` and urllib3's below it
    copy what has arrived, so http.client's is called, which hands the memory to the socket.
    """
    with body as answer:  # urllib3's; it closes a connection that has not been given back
        coming = answer.length_remaining
        try:
            filled: int = sum(map(answer._fp.readinto, buffers))
        except (OSError, HTTPException) as error:
            raise ResponseStreamingError(error=error) from error
        if coming is not None and filled < min(coming, sum(map(len, buffers))):
            raise IncompleteReadError(actual_bytes=filled, expected_bytes=coming)
        if answer.closed:  # nothing is left to come
            answer.release_conn()
        return filled


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise what botocore raises as FileNotFoundError, StoreError or StoreUnavailable.

    No message repeats a key, a token or a signature.
    """
    try:
        yield
    except ClientError as error:
        raise _refusal(place, error) from error
    except _NO_CREDENTIALS as error:
        raise StoreError(
            f"{place}: there are no credentials ({_public(error)}). Set AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a service account."
        ) from error
    except AWAY as error:
        raise _away(place, _public(error)) from error
    except BotoCoreError as error:
        raise StoreError(f"{place}: {_public(error)}. Check the URI and AWS_* settings.") from error


def _refusal(place: str, error: ClientError) -> OSError | StoreError:
    answer, name = error.response.get("Error", {}), code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = _public(answer.get("Message") or name)
    if name in ("NoSuchKey", "404"):
        return FileNotFoundError(errno.ENOENT, "there is no such object", place)
    if name == "NoSuchBucket":
        return StoreError(
            f"{place}: there is no such bucket. Create it, or correct the URI; AWS_ENDPOINT_URL "
            "says which server is asked."
        )
    if status >= 500 or status == 429 or name in _BUSY_CODES:
        return _away(place, f"{name}: {said}")
    if name in _IDENTITY_CODES:
        return StoreError(
            f"{place}: {_IDENTITY_CODES[name]} ({name}). Check the AWS_* variables, the profile or "
            "the pod's Secret."
        )
    if status == 403:
        return StoreError(
            f"{place}: access is denied ({said}). These credentials need to get, put, list and "
            "delete objects, and to abort multipart uploads, below this URI."
        )
    return StoreError(f"{place}: the store refused ({name}: {said}). Check the URI and the server.")


def _away(place: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{place}: the store does not answer ({why}). If that lasts, look after the server, the "
        "network and AWS_ENDPOINT_URL."
    )


def _public(text: object) -> str:
    """One line without the user and password that a URL in it may have."""
    return re.sub(r"//[^/@\s]+@", "//", " ".join(str(text).split())).rstrip(".")
