"""Whether a gang fits a queue and the nodes: sums over flavors, cohorts, labels and taints."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from goku_platform.cluster.kube import nodes, quota
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.settings import Settings, Toleration
from tests.goku_platform import made

GPU = "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("1Gi", 2**30),
        ("2k", 2000),
        ("1e3", 1000),
        ("3", 3),
        (4, 4),
        ("10Ti", 10 * 2**40),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str | int, value: str | int) -> None:
    assert quota.quantity(text) == Decimal(value)


def queue(*flavors: dict[str, str], used: dict[str, int] | None = None, **spec: Any) -> Any:
    """A ClusterQueue of flavors f0, f1, ..., each a nominal quota by resource."""
    listed = [
        {
            "name": f"f{number}",
            "resources": [{"name": name, "nominalQuota": one} for name, one in flavor.items()],
        }
        for number, flavor in enumerate(flavors)
    ]
    usage = [
        {"name": name, "resources": [{"name": GPU, "total": str(total)}]}
        for name, total in (used or {}).items()
    ]
    groups = [{"coveredResources": list(flavors[0]), "flavors": listed}]
    return {"spec": {"resourceGroups": groups, **spec}, "status": {"flavorsUsage": usage}}


def gpus(count: int) -> dict[str, Decimal]:
    return {GPU: Decimal(count)}


def test_a_gang_that_fits_one_flavor_fits() -> None:
    assert quota.fit(queue({GPU: "8"}, {GPU: "16"}), gpus(16)) == quota.Fit((), ())


def test_a_gang_is_not_spread_over_flavors() -> None:
    never = quota.fit(queue({GPU: "8"}, {GPU: "8"}), gpus(16)).never
    assert never == (f"{GPU}: 16 wanted, 8 there",)


def test_what_others_use_is_only_a_wait() -> None:
    fit = quota.fit(queue({GPU: "16"}, used={"f0": 10}), gpus(8))
    assert fit == quota.Fit((), (f"{GPU}: 8 wanted, 6 there",))


def test_a_cohort_may_lend_without_bound_unless_it_says_how_much() -> None:
    assert quota.fit(queue({GPU: "8"}, cohortName="all"), gpus(64)).never == ()
    bounded = queue({GPU: "8"}, cohortName="all")
    bounded["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]["borrowingLimit"] = "8"
    assert quota.fit(bounded, gpus(16)).never == ()
    assert quota.fit(bounded, gpus(17)).never == (f"{GPU}: 17 wanted, 16 there",)


def test_a_resource_that_no_flavor_has_is_named() -> None:
    wanted = {**gpus(1), "memory": Decimal(2**30)}
    assert quota.fit(queue({GPU: "8"}), wanted).never == ("memory: no flavor of the queue has it",)


def test_amounts_of_memory_are_shown_in_gibibytes() -> None:
    fit = quota.fit(queue({"memory": "10Gi"}), {"memory": Decimal(2**34)})
    assert fit.never == ("memory: 16Gi wanted, 10Gi there",)


def spec(**placement: Any) -> JobSpec:
    planned = plan(made.config("s3://bucket/runs"), Settings(), code_version="abc")
    return replace(planned, placement=replace(planned.placement, **placement))


def node(name: str = "n", *, gpus: int = 8, ready: bool = True, **labels: str) -> Any:
    status = "True" if ready else "False"
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "spec": {},
        "status": {
            "allocatable": {GPU: str(gpus), "cpu": "8", "memory": "64Gi"},
            "conditions": [{"type": "Ready", "status": status}],
        },
    }


def test_pods_share_nodes_as_far_as_the_scarcest_resource_goes() -> None:
    wanted = {GPU: Decimal(2), "cpu": Decimal(3), "memory": Decimal(0)}
    assert nodes.room([node("a"), node("b", gpus=2)], spec(), wanted) == 2 + 1


def test_a_node_must_be_ready_wanted_and_not_excluded() -> None:
    assert nodes.suits(node(), spec())
    assert not nodes.suits(node(ready=False), spec())
    assert not nodes.suits(node(), spec(node_selector={"pool": "h200"}))
    assert nodes.suits(node(pool="h200"), spec(node_selector={"pool": "h200"}))
    assert not nodes.suits(node("bad"), spec(excluded_nodes=("bad",)))


def test_taints_must_be_tolerated() -> None:
    tainted = node()
    tainted["spec"]["taints"] = [{"key": GPU, "value": "yes", "effect": "NoSchedule"}]
    assert not nodes.suits(tainted, spec())
    assert nodes.suits(tainted, spec(tolerations=(Toleration(key=GPU),)))
    equal = Toleration(key=GPU, operator="Equal", value="no")
    assert not nodes.suits(tainted, spec(tolerations=(equal,)))
    other = Toleration(key=GPU, effect="NoExecute")
    assert not nodes.suits(tainted, spec(tolerations=(other,)))
    tainted["spec"]["taints"][0]["effect"] = "PreferNoSchedule"
    assert nodes.suits(tainted, spec())
