"""Whether the nodes that a cluster has now could hold a job's pods. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from goku_platform.cluster.kube.conditions import true_conditions
from goku_platform.cluster.kube.quota import quantity
from goku_platform.jobs import names
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Toleration

Node = Mapping[str, Any]


def room(nodes: Sequence[Node], spec: JobSpec, wanted: Mapping[str, Decimal]) -> int:
    """How many of the job's pods would fit on them if they were empty."""
    return sum(_pods(node, wanted) for node in nodes if suits(node, spec))


def suits(node: Node, spec: JobSpec) -> bool:
    """Ready, with the labels that are asked for and no taint that is not tolerated."""
    labels = node["metadata"].get("labels", {})
    place = spec.placement
    wanted = place.node_selector.items()
    return (
        "Ready" in true_conditions(node)
        and all(labels.get(key) == value for key, value in wanted)
        and labels.get(names.HOSTNAME) not in place.excluded_nodes
        and all(_tolerates(place.tolerations, taint) for taint in node["spec"].get("taints", ()))
    )


def _tolerates(tolerations: Sequence[Toleration], taint: Mapping[str, Any]) -> bool:
    if taint["effect"] == "PreferNoSchedule":
        return True
    return any(
        one.key == taint["key"]
        and one.effect in (None, taint["effect"])
        and (one.operator == "Exists" or (one.value or "") == taint.get("value", ""))
        for one in tolerations
    )


def _pods(node: Node, wanted: Mapping[str, Decimal]) -> int:
    offer = node["status"].get("allocatable", {})
    return min(
        int(quantity(offer.get(name, 0)) // amount) for name, amount in wanted.items() if amount
    )
