"""The one verdict of a gang, out of what each node's supervisor says of its own ranks."""

import pytest

from goku.contract.exits import Cause
from goku.contract.pod import Verdict
from goku_platform.supervisor.gang import Report, vanished
from goku_platform.supervisor.verdict import merge

GOOD = Verdict(Cause.DONE, "")


def report(rank: int, verdict: Verdict | None = GOOD) -> Report:
    return Report(node_rank=rank, host=f"pod-{rank}", verdict=verdict)


CAUSES = [
    Cause.SUPERSEDED, Cause.USER_ERROR, Cause.NO_PROGRESS, Cause.OUT_OF_MEMORY, Cause.HUNG,
    Cause.KILLED, Cause.LOST, Cause.CRASHED, Cause.UNSAVED, Cause.YIELDED, Cause.DONE,
]  # fmt: skip


@pytest.mark.parametrize("worse", range(len(CAUSES) - 1))
def test_the_worse_cause_explains_the_better_whatever_the_order(worse: int) -> None:
    assert set(CAUSES) == set(Cause) - {Cause.RUNNING}
    bad = report(1, Verdict(CAUSES[worse], "why"))
    for better in CAUSES[worse + 1 :]:
        other = report(0, Verdict(better, "also"))
        for reports in ([bad, other], [other, bad], [other, report(2, None), bad]):
            assert merge(reports).cause is CAUSES[worse]


def test_of_equals_the_first_to_be_in_trouble_is_named() -> None:
    reports = [report(rank, Verdict(Cause.CRASHED, "reset by peer")) for rank in (2, 0, 1)]
    assert merge(reports).message == "node 2 (pod-2): reset by peer"


def test_a_node_alone_is_not_named() -> None:
    assert merge([report(0, Verdict(Cause.CRASHED, "it broke"))]).message == "it broke"
    assert merge([report(0), report(1)]).message == ""
    assert merge([report(0, None), report(1, None)]).cause is Cause.CRASHED
    assert merge([report(0, None), vanished(1, "p", "silent")]).cause is Cause.LOST
