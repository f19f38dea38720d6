"""Objects with tensors over a socket: a pickle without the tensors' bytes, then those bytes.

The bytes of a tensor are received where they will stay, by calls that let other threads run.
"""

import io
import pickle
import socket
from contextlib import suppress
from typing import Any, Final

import torch
from torch import Tensor

_SIZE: Final = 8  # bytes of the pickle's length, little-endian
_PROTOCOL: Final = 5

Form = tuple[int, torch.dtype, tuple[int, ...]]  # number in the message, dtype, shape


class Gone(Exception):
    """Whoever was at the other end."""


class Wire:
    """One end of a connected stream socket. One thread may send while another receives."""

    def __init__(self, channel: socket.socket, *, pinned: bool = False) -> None:
        """`pinned`: tensors are received into page-locked memory."""
        self._channel, self._pinned = channel, pinned

    def send(self, item: object) -> None:
        """Send what can be pickled; its tensors are on the CPU. Raises Gone."""
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(item)
        data = file.getbuffer()
        try:
            self._channel.sendall(len(data).to_bytes(_SIZE, "little"))
            self._channel.sendall(data)
            for tensor in packer.tensors:
                self._channel.sendall(_bytes_of(tensor.contiguous()))
        except OSError as error:
            raise Gone from error

    def receive(self) -> Any:
        """What was sent: trust the sender as a pickle's. Raises Gone, and what unpickling does."""
        head = bytearray(_SIZE)
        self._fill(memoryview(head))
        data = bytearray(int.from_bytes(head, "little"))
        self._fill(memoryview(data))
        unpacker = _Unpacker(io.BytesIO(data), pinned=self._pinned)
        item = unpacker.load()
        for tensor in unpacker.tensors:
            self._fill(_bytes_of(tensor))
        return item

    def hang_up(self) -> None:
        """Let the other end know, and whoever waits at this one."""
        with suppress(OSError):  # the other may have been first
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket, once no thread waits at it."""
        self._channel.close()

    def _fill(self, view: memoryview) -> None:
        while view:
            try:
                count = self._channel.recv_into(view, 0, socket.MSG_WAITALL)
            except OSError as error:
                raise Gone from error
            if not count:
                raise Gone
            view = view[count:]


class _Packer(pickle.Pickler):
    """Leaves tensors out, each once, and gathers them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}  # by id: they are all kept alive meanwhile

    def persistent_id(self, found: Any) -> Form | None:
        if type(found) is not Tensor:
            return None
        number = self._numbers.setdefault(id(found), len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(found)
        return number, found.dtype, tuple(found.shape)


class _Unpacker(pickle.Unpickler):
    """Puts tensors in their places, empty."""

    def __init__(self, file: io.BytesIO, *, pinned: bool) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []
        self._pinned = pinned

    def persistent_load(self, form: Form) -> Tensor:
        number, dtype, shape = form
        if number == len(self.tensors):
            self.tensors.append(torch.empty(shape, dtype=dtype, pin_memory=self._pinned))
        return self.tensors[number]


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().flatten().view(torch.uint8).numpy().data
