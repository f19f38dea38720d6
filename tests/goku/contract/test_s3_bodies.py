"""Answers of an S3 server that are read into memory: whole, cut short, and cut off on the way."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from goku.contract.store import Store, StoreUnavailable, s3_client

DATA = bytes(range(251)) * 4001  # a million bytes: many reads of a socket


class Server(BaseHTTPRequestHandler):
    """Gives ranges of `DATA`; of as many answers as `broken` says, the first half."""

    protocol_version = "HTTP/1.1"
    broken: ClassVar[int]
    connections: ClassVar[int]
    requests: ClassVar[int]

    def setup(self) -> None:
        super().setup()
        Server.connections += 1

    def do_GET(self) -> None:
        Server.requests += 1
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        body = DATA[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if Server.broken:
            Server.broken -= 1
            self.close_connection, body = True, body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(Server, "broken", 0, raising=False)
    monkeypatch.setattr(Server, "connections", 0, raising=False)
    monkeypatch.setattr(Server, "requests", 0, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield Store("s3://bucket")
        s3_client.client().close()
        server.shutdown()


def read(store: Store, start: int, *rooms: int) -> tuple[int, bytes]:
    """What `read_into` returns, and what is in the buffers then."""
    buffers = [bytearray(room) for room in rooms]
    count = store.read_into("data", start, *map(memoryview, buffers))
    return count, b"".join(buffers)


def test_one_connection_gives_range_after_range(store: Store) -> None:
    assert read(store, 5, 300_000, 7, 0, 500_000) == (800_007, DATA[5:800_012])
    end = len(DATA) - 1000
    assert read(store, end, 10, 2000, 3) == (1000, DATA[end:].ljust(2013, b"\0"))
    assert read(store, 0, 1) == (1, DATA[:1])
    assert (Server.requests, Server.connections) == (3, 1)


def test_an_answer_that_breaks_off_is_asked_for_again_from_its_start(store: Store) -> None:
    Server.broken = 2
    assert read(store, 9, 100_000, 400_000, 100_000) == (600_000, DATA[9:600_009])
    assert (Server.requests, Server.connections) == (3, 3)


def test_answers_that_always_break_off_are_a_store_that_is_away(store: Store) -> None:
    Server.broken = 100
    with pytest.raises(StoreUnavailable, match="s3://bucket/data: the store does not answer"):
        read(store, 0, 500_000)
    assert Server.requests == 3
    Server.broken = 0
    assert read(store, 0, 500_000) == (500_000, DATA[:500_000])
