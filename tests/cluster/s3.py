"""S3 servers for tests: MinIO and versitygw, two independent implementations, as they ship.

    with serving("minio", folder) as server:
        os.environ |= server.environment()      # all that boto3 needs to find it
        Store(f"s3://{server.bucket}/runs").check_writable()

A server listens on one address (the loopback, or the bridge for pods), has credentials of its own
and one bucket. It can be stopped and started again with its data, or frozen: a frozen server still
accepts connections and never answers, which is how an overloaded store looks.
"""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from goku.contract.lineage import die_with_parent
from tests.cluster.binaries import binary

Kind = Literal["minio", "versitygw"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_READY_SECONDS = 60.0  # of a machine that builds at the same time
_END_SECONDS = 10.0
_REGION = "us-east-1"


def _state(stat: Path) -> str:
    """A thread's, by its file in /proc: T is stopped."""
    return stat.read_text().rpartition(")")[2].split()[0]


def free_port(address: str) -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])


@dataclass
class S3Server:
    """One server, its credentials and its bucket. `folder` keeps its data and its log."""

    kind: Kind
    folder: Path
    address: str = "127.0.0.1"
    bucket: str = "goku-runs"
    access_key: str = field(default_factory=lambda: secrets.token_hex(8))
    secret_key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    port: int = 0
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def environment(self) -> dict[str, str]:
        """The variables by which boto3, and everything that uses it, finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": _REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain boto3 client, to look behind the store's back."""
        session = Session(self.access_key, self.secret_key, region_name=_REGION)
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5)
        return session.client("s3", endpoint_url=self.url, config=config)

    def start(self) -> None:
        """Start it, again with the same port and data after `stop`; returns when it answers."""
        self.port = self.port or free_port(self.address)
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                env={**os.environ, **self._settings()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        self._await()

    def stop(self) -> None:
        """End it at once, as a crash would; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END_SECONDS)
            self._process = None

    def check(self) -> None:
        """Raise RuntimeError, with its last words, if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.kind} ended with {self._process.returncode}:\n{tail}")

    def freeze(self) -> None:
        """Let it accept and never answer, until `thaw`."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task")
        while any(_state(task / "stat") != "T" for task in tasks.iterdir()):
            time.sleep(0.001)  # a thread may still answer

    def thaw(self) -> None:
        """Let it go on where it was."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def away(self, *, frozen: bool = False) -> Iterator[None]:
        """Stopped, or frozen, for a while."""
        (self.freeze if frozen else self.stop)()
        try:
            yield
        finally:
            (self.thaw if frozen else self.start)()

    @property
    def log(self) -> Path:
        return self.folder / f"{self.kind}.log"

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.kind} is not running"
        self._process.send_signal(number)

    def _command(self) -> list[str]:
        data, place = str(self.folder / "data"), f"{self.address}:{self.port}"
        if self.kind == "minio":
            return [str(binary("minio")), "server", "--quiet", "--address", place, data]
        return [str(binary("versitygw")), "--quiet", "--port", place, "posix", data]

    def _settings(self) -> dict[str, str]:
        """Credentials travel by the environment: arguments are for all to see."""
        if self.kind == "minio":
            return {
                "MINIO_ROOT_USER": self.access_key,
                "MINIO_ROOT_PASSWORD": self.secret_key,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
            }
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}

    def _await(self) -> None:
        """Until the bucket is there."""
        deadline, client = time.monotonic() + _READY_SECONDS, self.client()
        while True:
            try:
                client.create_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] == "BucketAlreadyOwnedByYou":
                    return
                self._check_time(deadline, error)
            except BotoCoreError as error:
                self._check_time(deadline, error)
            else:
                return
            time.sleep(0.05)

    def _check_time(self, deadline: float, error: Exception) -> None:
        assert self._process is not None
        if self._process.poll() is not None or time.monotonic() > deadline:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.kind} at {self.url} does not start ({error}):\n{tail}")


@contextmanager
def serving(
    kind: Kind, folder: Path, *, address: str = "127.0.0.1", bucket: str = "goku-runs"
) -> Iterator[S3Server]:
    """A server until the block ends. Raises MissingTool, with the command that builds it, and
    RuntimeError if the server has not lived as long."""
    server = S3Server(kind, folder, address=address, bucket=bucket)
    try:
        server.start()
        yield server
        server.check()
    finally:
        server.stop()
