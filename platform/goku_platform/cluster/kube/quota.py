"""Whether a gang can ever fit a ClusterQueue, and whether it fits now. Best effort, and pure.

Kueue gives all pods of one kind the same flavor, so a gang has to fit into one flavor of each
resource group. What a cohort could lend is not known here: without a borrowing limit, a queue in a
cohort is taken as boundless.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from goku_platform.jobs.spec import JobSpec

_SUFFIXES = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


class Fit(NamedTuple):
    """Resources that stand in the way, as lines for people."""

    never: tuple[str, ...]
    not_now: tuple[str, ...]


def quantity(text: str | int | float) -> Decimal:
    """A number in Kubernetes' own notation: 500m, 1Gi, 2k, 1e3."""
    plain = str(text)
    digits = plain.rstrip("mkKMGTPEi") if not plain[-1:].isdigit() else plain
    return Decimal(digits) * _SUFFIXES[plain[len(digits) :]]


def of_pod(spec: JobSpec) -> dict[str, Decimal]:
    """What one pod asks for."""
    wanted = {
        "cpu": Decimal(spec.resources.cpus),
        "memory": Decimal(spec.resources.memory_gib) * 2**30,
    }
    if spec.resources.gpus:
        wanted[spec.resources.gpu_resource] = Decimal(spec.resources.gpus)
    return wanted | {
        device.resource: quantity(device.quantity) for device in spec.placement.network.devices
    }


def fit(queue: Mapping[str, Any], wanted: Mapping[str, Decimal]) -> Fit:
    """How a gang's total stands to a ClusterQueue."""
    never: list[str] = []
    not_now: list[str] = []
    covered: set[str] = set()
    for group in queue["spec"].get("resourceGroups", ()):
        mine = {name: wanted[name] for name in group["coveredResources"] if name in wanted}
        covered |= mine.keys()
        flavors = list(_flavors(queue, group))
        if not any(_holds(ceiling, mine) for _, ceiling, _ in flavors):
            never += [_short(name, mine[name], [c for _, c, _ in flavors]) for name in mine]
        elif not any(_holds(free, mine) for _, _, free in flavors):
            not_now += [_short(name, mine[name], [f for _, _, f in flavors]) for name in mine]
    never += [f"{name}: no flavor of the queue has it" for name in wanted if name not in covered]
    return Fit(tuple(filter(None, never)), tuple(filter(None, not_now)))


Amounts = dict[str, Decimal]


def _flavors(
    queue: Mapping[str, Any], group: Mapping[str, Any]
) -> Iterator[tuple[str, Amounts, Amounts]]:
    """Name, the most it can ever give, and what is free of it."""
    used = {
        (flavor["name"], one["name"]): quantity(one.get("total", 0))
        for flavor in queue.get("status", {}).get("flavorsUsage", ())
        for one in flavor.get("resources", ())
    }
    spec = queue["spec"]
    shares = bool(spec.get("cohortName") or spec.get("cohort"))
    for flavor in group["flavors"]:
        ceiling: Amounts = {}
        for one in flavor["resources"]:
            limit = one.get("borrowingLimit")
            lent = quantity(limit) if limit is not None else Decimal(math.inf)
            ceiling[one["name"]] = quantity(one["nominalQuota"]) + (lent if shares else 0)
        free = {
            name: most - used.get((flavor["name"], name), Decimal(0))
            for name, most in ceiling.items()
        }
        yield flavor["name"], ceiling, free


def _holds(offer: Amounts, wanted: Mapping[str, Decimal]) -> bool:
    return all(offer.get(name, Decimal(0)) >= amount for name, amount in wanted.items())


def _short(name: str, amount: Decimal, offers: list[Amounts]) -> str:
    """The line for a resource that no flavor has enough of; "" if one has."""
    best = max((offer.get(name, Decimal(0)) for offer in offers), default=Decimal(0))
    return "" if best >= amount else f"{name}: {_show(amount)} wanted, {_show(best)} there"


def _show(amount: Decimal) -> str:
    if amount and amount % 2**30 == 0:
        return f"{amount // 2**30}Gi"
    return f"{amount.normalize():f}"
