"""What each fabric needs of a pod: variables for NCCL and libfabric, and devices to ask for.

One table a fabric, each line with its reason. The profile's `env` wins over any variable here, and
is where to put what only one cluster needs. Pods of one node get none of it: they stay on NVLink
and shared memory. RDMA pins memory; the restricted Pod Security level forbids the capability that
would lift the limit (IPC_LOCK), so the nodes' container runtime must allow it (LimitMEMLOCK).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from goku_platform.settings import Fabric, Settings


class Variable(NamedTuple):
    """A variable of every pod."""

    name: str
    value: str
    reason: str


class Device(NamedTuple):
    """An extended resource, requested as often as it is limited."""

    resource: str
    quantity: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Network:
    """How the pods of one job reach one another."""

    fabric: Fabric
    variables: tuple[Variable, ...] = ()
    devices: tuple[Device, ...] = ()

    @property
    def pins_memory(self) -> bool:
        """Whether the pods register memory with a device: RDMA."""
        return self.fabric != "tcp" and bool(self.variables)


_NO_FALLBACK = Variable(
    "NCCL_NET", "IB", "fail at the start rather than fall back to sockets, ten times slower"
)
_PATIENCE = Variable(
    "NCCL_IB_TIMEOUT", "22", "4 us * 2^22 = 17 s a try: a link that flaps is waited for"
)

_VARIABLES: dict[Fabric, tuple[Variable, ...]] = {
    "tcp": (
        Variable("NCCL_IB_DISABLE", "1", "a host's idle RDMA port is found and fails the job"),
    ),
    "infiniband": (_NO_FALLBACK, _PATIENCE),
    "roce": (
        _NO_FALLBACK,
        _PATIENCE,
        # NCCL picks the RoCE v2 address by itself; a fixed NCCL_IB_GID_INDEX is wrong in most pods
        Variable("NCCL_IB_TC", "106", "DSCP 26, the lossless class of the vendors' set-up guides"),
    ),
    "efa": (
        Variable("FI_PROVIDER", "efa", "fail rather than fall back to libfabric's TCP"),
        Variable("FI_EFA_USE_DEVICE_RDMA", "1", "reads past the CPU; older images leave it off"),
    ),
}

_RESOURCES: dict[Fabric, str] = {
    "infiniband": "rdma/hca",  # of the shared device plugin's first example
    "roce": "rdma/hca",
    "efa": "vpc.amazonaws.com/efa",
}
_HUGE_PAGES = Device(
    "hugepages-2Mi", "5120Mi", "libfabric's bounce buffers; EFA's own images reserve them"
)


def network(settings: Settings, *, nodes: int, share: float) -> Network:
    """The fabric of a profile for a job of `nodes` pods, each a `share` of a node."""
    if nodes == 1:
        return Network(fabric=settings.network)
    return Network(
        fabric=settings.network,
        variables=_interface(settings.network_interface) + _VARIABLES[settings.network],
        devices=_devices(settings, share),
    )


def _interface(name: str | None) -> tuple[Variable, ...]:
    """Every fabric meets over sockets first."""
    if name is None:
        return ()
    return (
        Variable("NCCL_SOCKET_IFNAME", name, "where NCCL's processes find one another"),
        Variable("GLOO_SOCKET_IFNAME", name, "likewise for gloo, which carries the stop requests"),
    )


def _devices(settings: Settings, share: float) -> tuple[Device, ...]:
    resource = settings.network_resource or _RESOURCES.get(settings.network)
    if resource is None or not settings.network_devices:
        return ()
    count = math.ceil(settings.network_devices * share)
    ports = Device(resource, str(count), "the pod's ports on the fabric")
    return (ports, _HUGE_PAGES) if settings.network == "efa" else (ports,)
