"""Kills a process at its k-th input or output, as the kernel sees it.

The process is traced (ptrace), with all threads that it starts: whatever it calls, in whatever
library, is counted when it enters the kernel and has not yet been done. So a sweep over k leaves
out no place between two calls, and needs to know nothing of the code that it kills.

Call `trace` in a process that waits for no other children.
"""

import ctypes
import os
import platform
import signal
import struct
from contextlib import suppress
from pathlib import Path

_SEIZE, _INTERRUPT, _SYSCALL, _SYSCALL_INFO = 0x4206, 0x4207, 24, 0x420E
_SYSGOOD, _FORKS, _CLONES, _EXITKILL = 0x1, 0x2 | 0x4, 0x8, 0x100000
_WALL = 0x40000000  # threads too
_EVENT_STOP = 128
_ENTRY = 1
_INFO_BYTES = 88

# fmt: off
_CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "close": 3, "pread64": 17, "pwrite64": 18, "readv": 19,
        "writev": 20, "sendfile": 40, "connect": 42, "sendto": 44, "recvfrom": 45, "sendmsg": 46,
        "recvmsg": 47, "shutdown": 48, "flock": 73, "fsync": 74, "fdatasync": 75, "truncate": 76,
        "ftruncate": 77, "getdents": 78, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85,
        "link": 86, "unlink": 87, "getdents64": 217, "openat": 257, "mkdirat": 258,
        "newfstatat": 262, "unlinkat": 263, "renameat": 264, "linkat": 265, "fallocate": 285,
        "preadv": 295, "pwritev": 296, "renameat2": 316, "copy_file_range": 326, "statx": 332,
    },
}
# fmt: on

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def attach(pid: int) -> None:
    """Begin to trace a child and all its threads. It stays stopped until `trace`."""
    options = _SYSGOOD | _FORKS | _CLONES | _EXITKILL
    for task in Path(f"/proc/{pid}/task").iterdir():
        _ptrace(_SEIZE, int(task.name), 0, options)
        _ptrace(_INTERRUPT, int(task.name))


def trace(pid: int, *, kill_at: int | None = None) -> list[str]:
    """Let a child run to its end, or to its `kill_at`-th call (from 0); the calls it began."""
    names = {number: name for name, number in _CALLS[platform.machine()].items()}
    seen: list[str] = []
    while True:
        task, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            if task == pid:
                return seen
            continue
        stop = os.WSTOPSIG(status)
        name = names.get(_entered(task)) if stop == signal.SIGTRAP | 0x80 else None
        if name is not None:
            seen.append(name)
            if len(seen) - 1 == kill_at:
                os.kill(pid, signal.SIGKILL)  # it wakes only to die: the call is not done
                continue
        ours = stop & 0x7F == signal.SIGTRAP or status >> 16 == _EVENT_STOP
        with suppress(ProcessLookupError):  # killed meanwhile
            _ptrace(_SYSCALL, task, 0, 0 if ours else stop)


def _entered(task: int) -> int:
    """The number of the call that a stopped thread is about to make; -1 as it comes back."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    try:
        _ptrace(_SYSCALL_INFO, task, _INFO_BYTES, ctypes.addressof(info))
    except ProcessLookupError:
        return -1
    operation, number = struct.unpack_from("=B23xQ", info)
    return number if operation == _ENTRY else -1


def _ptrace(request: int, task: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, task, address, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace: {os.strerror(error)}")
