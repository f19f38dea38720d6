"""One connection between two supervisors: messages in, messages out, never blocking.

Both sides beat, so silence means that the other is gone: TCP's own keepalive would take minutes.
"""

import contextlib
import socket
import time

from goku_platform.supervisor.gang import BEAT_SECONDS, SILENCE_SECONDS
from goku_platform.supervisor.messages import Beat, Decoder, Garbage, Message, encode

_READ_BYTES = 1 << 16
_UNSENT_BYTES = 1 << 20  # a peer that takes nothing is gone, whatever its beats say


class Gone(Exception):
    """The other side closed, broke, spoke rubbish or fell silent."""


class Connection:
    """A socket that speaks messages. Not for several threads at once."""

    def __init__(self, peer: socket.socket, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        peer.setblocking(False)
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer, self._silence_seconds = peer, silence_seconds
        self._decoder = Decoder()
        self._unsent = bytearray()
        self._heard_at = self._said_at = time.monotonic()

    def fileno(self) -> int:
        return self._peer.fileno()

    def say(self, message: Message) -> None:
        """Queue a message; `turn` sends it."""
        self._unsent += encode(message)

    def hear(self) -> list[Message]:
        """All messages that have come, without waiting. Raises Gone."""
        try:
            data = self._peer.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Gone(str(error)) from None
        if not data:
            raise Gone("the connection was closed")
        self._heard_at = time.monotonic()
        try:
            return self._decoder.feed(data)
        except Garbage as error:
            raise Gone(f"it does not speak our language ({error})") from None

    def turn(self) -> None:
        """Send what can be sent, and a beat if it is time for one. Raises Gone."""
        now = time.monotonic()
        if now - self._heard_at > self._silence_seconds:
            raise Gone(f"silent for {now - self._heard_at:.0f} s")
        if now - self._said_at > BEAT_SECONDS:
            self.say(Beat())
        if self._unsent:
            self._said_at = now
            self._send()

    def close(self) -> None:
        self._peer.close()

    def _send(self) -> None:
        try:
            sent = self._peer.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Gone(str(error)) from None
        del self._unsent[:sent]
        if len(self._unsent) > _UNSENT_BYTES:
            raise Gone("it takes no messages")
