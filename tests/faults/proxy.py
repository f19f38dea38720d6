"""An HTTP proxy between a client and an S3 server that does what networks and servers do.

    with Proxy(server.address, server.port) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        proxy.fault(SLOW_DOWN, requests=2)      # the next two requests meet it
        proxy.fault(RESET)                      # all, until `heal`

Requests are signed for the proxy's own address, and pass through unchanged.
"""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

_BUFFER = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # linger for no time: close with a reset
_EXPECT = re.compile(rb"(?im)^expect:.*\r\n")
_SLOW_BYTES_PER_SECOND = 16 << 20


class Message(NamedTuple):
    """An HTTP request or response: its head with the empty line, and its body."""

    head: bytes
    body: bytes


# What becomes of a request: it gets the client's socket, the request, and a way to the server.
Forward = Callable[[Message], Message]
Fault = Callable[[socket.socket, Message, Forward], None]


def answer(status: int, code: str) -> Fault:
    """A fault in the server's own words; the request never reaches it."""
    body = f"<Error><Code>{code}</Code><Message>{code} on purpose</Message></Error>".encode()
    head = (
        f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )

    def reply(client: socket.socket, request: Message, _: Forward) -> None:
        client.sendall(head.encode() + (b"" if request.head.startswith(b"HEAD ") else body))

    return reply


def reset(client: socket.socket, _request: Message, _forward: Forward) -> None:
    """The connection breaks before the server has heard anything."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def lost(client: socket.socket, request: Message, forward: Forward) -> None:
    """The server does what it was asked, and its answer never arrives."""
    forward(request)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def silence(client: socket.socket, _request: Message, _forward: Forward) -> None:
    """No answer, until the client hangs up."""
    with suppress(OSError):
        client.recv(1)


def truncated(client: socket.socket, request: Message, forward: Forward) -> None:
    """Half of the answer's body, or nothing of an answer that has none."""
    found = forward(request)
    if found.body:
        client.sendall(found.head + found.body[: len(found.body) // 2])


def slow(client: socket.socket, request: Message, forward: Forward) -> None:
    """The request takes its time on the way."""
    time.sleep(len(request.body) / _SLOW_BYTES_PER_SECOND)
    found = forward(request)
    client.sendall(found.head + found.body)


INTERNAL_ERROR = answer(500, "InternalError")
SLOW_DOWN = answer(503, "SlowDown")
SKEWED = answer(403, "RequestTimeTooSkewed")
EXPIRED = answer(400, "ExpiredToken")


class Proxy:
    """Listens on the loopback from the beginning of the block to its end."""

    def __init__(self, address: str, port: int) -> None:
        self._server = (address, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.met = 0  # requests that met a fault
        self._fault: Fault | None = None
        self._left = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def fault(self, fault: Fault, *, requests: int = 1 << 30) -> None:
        """Let the next requests meet a fault."""
        with self._lock:
            self._fault, self._left, self.met = fault, requests, 0

    def heal(self) -> None:
        """Let all requests through."""
        with self._lock:
            self._fault = None

    def _next(self) -> Fault | None:
        with self._lock:
            if self._fault is None or not self._left:
                return None
            self._left, self.met = self._left - 1, self.met + 1
            return self._fault

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Requests of one connection; a fault is its last."""
        with client, suppress(OSError):
            while (request := _receive(client, client)) is not None:
                fault = self._next()
                if fault is not None:
                    fault(client, request, self._forward)
                    return
                found = self._forward(request)
                client.sendall(found.head + found.body)

    def _forward(self, request: Message) -> Message:
        """The server's answer, on a connection of its own."""
        head = _EXPECT.sub(b"", request.head)  # has been answered; it is in no signature
        with socket.create_connection(self._server) as server:
            server.sendall(head + request.body)
            found = _receive(server, None, bodiless=head.startswith(b"HEAD "))
        if found is None:
            raise ConnectionError("the server said nothing")
        return found


def _receive(
    stream: socket.socket, sender: socket.socket | None, *, bodiless: bool = False
) -> Message | None:
    """One message, or None at the end. `sender` is told to go on if it asks before its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = stream.recv(_BUFFER)
        if not more:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    fields = _fields(head)
    if sender is not None and fields.get("expect") == "100-continue":
        sender.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray(rest)
    if fields.get("transfer-encoding") == "chunked" and not bodiless:
        while not body.endswith(b"0\r\n\r\n"):
            _more(stream, body)
    else:
        length = 0 if bodiless else int(fields.get("content-length", 0))
        while len(body) < length:
            _more(stream, body)
    return Message(head + b"\r\n\r\n", bytes(body))


def _more(stream: socket.socket, body: bytearray) -> None:
    data = stream.recv(_BUFFER)
    if not data:
        raise ConnectionError("it broke off")
    body += data


def _fields(head: bytes) -> dict[str, str]:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.decode().lower(): value.decode().strip().lower() for name, _, value in lines}
