"""Google's and Azure's object stores as their emulators: fake-gcs-server and Azurite.

    with serving("gs", folder) as cloud:
        os.environ |= cloud.environment      # all that gcsfs and adlfs need to find it
        Store(f"{cloud.uri}/runs").check_writable()

An emulator answers conditional writes as its service does; speed and limits are its own.
"""

import json
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from azure.storage.blob import ContainerClient

from goku.contract.lineage import die_with_parent
from tests.cluster.binaries import binary
from tests.cluster.packages import azurite
from tests.cluster.s3 import free_port

Scheme = Literal["gs", "az"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

_ADDRESS = "127.0.0.1"
_BUCKET = "goku-runs"
_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Cloud:
    """An emulator that runs: how its store is called, and how a client finds it."""

    uri: str
    environment: Mapping[str, str]


@contextmanager
def serving(scheme: Scheme, folder: Path) -> Iterator[Cloud]:
    """An emulator with an empty bucket until the block ends.

    Raises MissingTool where it was not installed, RuntimeError with its last words if it ends.
    """
    port = free_port(_ADDRESS)
    command, settings, cloud = (_google if scheme == "gs" else _azure)(port, folder)
    log = folder / "emulator.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    try:
        _await(process, port, log)
        _make_bucket(cloud)
        yield cloud
    finally:
        process.kill()
        process.wait()


def _google(port: int, folder: Path) -> tuple[list[str], dict[str, str], Cloud]:
    url = f"http://{_ADDRESS}:{port}"
    command = [
        *(str(binary("fake-gcs-server")), "-scheme", "http", "-host", _ADDRESS),
        *("-port", str(port), "-backend", "memory", "-external-url", url),
    ]
    environment = {
        "STORAGE_EMULATOR_HOST": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for the kind of bucket over gRPC
    }
    return command, {}, Cloud(f"gs://{_BUCKET}", environment)


def _azure(port: int, folder: Path) -> tuple[list[str], dict[str, str], Cloud]:
    account, key = "goku", b64encode(secrets.token_bytes(32)).decode()
    command = [
        str(azurite("azurite-blob")),
        *("--blobHost", _ADDRESS, "--blobPort", str(port)),
        *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"),
    ]
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};"
        f"BlobEndpoint=http://{_ADDRESS}:{port}/{account};"
    )
    environment = {"AZURE_STORAGE_CONNECTION_STRING": connection}
    return command, {"AZURITE_ACCOUNTS": f"{account}:{key}"}, Cloud(f"az://{_BUCKET}", environment)


def _await(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((_ADDRESS, port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not start:\n{log.read_text()[-2000:]}")


def _make_bucket(cloud: Cloud) -> None:
    if connection := cloud.environment.get("AZURE_STORAGE_CONNECTION_STRING"):
        ContainerClient.from_connection_string(connection, _BUCKET).create_container()
        return
    url = f"{cloud.environment['STORAGE_EMULATOR_HOST']}/storage/v1/b?project=goku"
    body = json.dumps({"name": _BUCKET}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30).close()
