"""The multi-process runner itself: results by rank, errors with their traceback, time limits."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.ranks import RankFailed, run_ranks

pytestmark = pytest.mark.slow


def sum_of_ranks(offset: int) -> tuple[int, float]:
    total = torch.tensor([float(dist.get_rank() + offset)])
    dist.all_reduce(total)
    return dist.get_rank(), total.item()


def fail_on_one() -> None:
    if dist.get_rank() == 1:
        raise RuntimeError("the second rank is unhappy")
    dist.barrier()


def die_on_one() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def sleep_long() -> None:
    time.sleep(60)


def test_results_come_back_by_rank() -> None:
    assert run_ranks(sum_of_ranks, 3, 10) == [(0, 33.0), (1, 33.0), (2, 33.0)]


def test_the_error_of_a_rank_names_rank_and_cause() -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 1, error.*the second rank is unhappy"):
        run_ranks(fail_on_one, 2)


def test_a_dead_or_silent_rank_ends_the_call() -> None:
    began = time.monotonic()
    with pytest.raises(RankFailed):
        run_ranks(die_on_one, 2)
    with pytest.raises(RankFailed):
        run_ranks(sleep_long, 1, timeout_seconds=1)
    assert time.monotonic() - began < 30
