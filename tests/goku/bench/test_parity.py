"""The doctor finds every way to spread a step sound, and says so of one that is not."""

import math

import pytest

from goku.bench.parity import GRIDS, Verdict, cases, divided, examine
from goku.config.parallel import ParallelConfig
from tests.ranks import run_ranks


def verdicts(world: int) -> list[Verdict]:
    return list(examine(world, ["fp32"]))


@pytest.mark.slow
def test_two_ranks_agree_with_one_process_in_every_case() -> None:
    first, second = run_ranks(verdicts, 2, 2, timeout_seconds=250)
    assert [str(verdict) for verdict in first if not verdict.good] == []
    assert len(first) == len(cases(2, ["fp32"])) + 1
    assert [v[2:] for v in first[1:]] == [v[2:] for v in second[1:]]  # the ranks agree


@pytest.mark.parametrize(
    ("sequence", "context", "degrees"),
    [(2, 1, {1, 2}), (4, 1, {1, 2, 4}), (4, 2, {1, 2, 4}), (8, 2, {1, 4, 8})],
)
def test_packs_are_shared_at_all_degrees(sequence: int, context: int, degrees: set[int]) -> None:
    values = {"processes_per_node": sequence, "sequence": sequence, "context": context}
    config = ParallelConfig.build(values)
    packs = [[math.prod(grid) for grid in GRIDS[n % len(GRIDS)]] for n in range(sequence)]
    assert {divided(lengths, config).degree for lengths in packs} == degrees
    full = ParallelConfig.build({**values, "sequence_degree": "full"})
    assert {divided(lengths, full).degree for lengths in packs} == {sequence}


def test_what_is_off_or_no_number_is_bad() -> None:
    assert Verdict("c", 0.0, 1e-6, "p", 1e-5).good
    assert not Verdict("c", 2e-5, 0.0, "p", 1e-5).good
    assert not Verdict("c", 0.0, float("nan"), "p", 1e-5).good
    assert not Verdict("c", float("nan"), 0.0, "p", 1e-5).good
