"""The nodes' own disks as an attempt begins: its fence is raised on each, or none goes on."""

import errno
import socket

from goku.config import ConfigError
from goku.contract.rundir import NodeDir
from goku.contract.store import StoreError
from goku.parallel.mesh import Mesh

# What another attempt would meet again; a disk that is full or failing is the machine's doing.
_FOR_GOOD = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}
_FOR_GOOD |= {errno.EACCES, errno.EPERM, errno.EROFS}

_Words = tuple[str, str, str]  # of a ConfigError


def take(node: NodeDir, attempt: int, mesh: Mesh) -> None:
    """From now on no attempt before `attempt` may commit to `node`, this node's own disk.

    Raises ConfigError, on all ranks alike, where one cannot write there. Collective.
    """
    errors: list[_Words | None] = mesh.gather(_refusal(node, attempt))
    error = mesh.broadcast(next(filter(None, errors), None))
    if error is not None:
        raise ConfigError(*error)


def _refusal(node: NodeDir, attempt: int) -> _Words | None:
    try:
        node.raise_fence(attempt)
    except ConfigError as error:  # the fence is damaged
        return error.value, error.rule, error.fix
    except (OSError, StoreError) as error:
        why = error.__cause__ or error
        if isinstance(why, OSError) and why.errno not in _FOR_GOOD:
            raise
        return _unwritable(node, why)
    return None


def _unwritable(node: NodeDir, why: BaseException) -> _Words:
    folder = node.uri.rpartition("/")[0]
    return (
        f"checkpoint.local_dir={folder}",
        f"{socket.gethostname()} cannot write there ({getattr(why, 'strerror', None) or why})",
        "Set it to a folder that this user may write to on every node, or it and "
        "checkpoint.local_interval_steps to none.",
    )
