"""What ranks ask of one another is answered when the next question is put, and alike on all."""

from typing import Any

import pytest
import torch

from goku.config.parallel import ParallelConfig
from goku.parallel.mesh import Mesh, connect
from goku.trainer.polls import Answers, Polls
from tests.ranks import run_ranks


class Rank:
    """What one rank would say."""

    def __init__(self, **values: int) -> None:
        self.stop, self.overdue, self.ended = 0, 0, 0
        vars(self).update(values)

    def polls(self, mesh: Mesh) -> Polls:
        return Polls(
            mesh,
            stop=lambda: bool(self.stop),
            overdue=lambda: self.overdue,
            ended=lambda: self.ended,
        )


def asked(calls: int) -> list[Answers]:
    """The answers of so many calls; before the second, rank 2 has something to say."""
    mesh = connect(ParallelConfig(processes_per_node=3))
    rank = Rank(ended=1 + mesh.rank)
    polls, found = rank.polls(mesh), []
    for call in range(calls):
        if call == 1 and mesh.rank == 2:
            rank.stop, rank.overdue = 1, 7
        if call == 1:
            rank.ended = 3 + mesh.rank
        found.append(polls.answers())
    mesh.close()
    return found


@pytest.mark.slow
def test_an_answer_is_what_any_rank_said_a_call_before() -> None:
    before, after = Answers(False, 0, 1), Answers(True, 7, 3)
    for found in run_ranks(asked, 3, 4):
        assert found == [before, before, after, after]


def test_the_only_rank_answers_for_now() -> None:
    rank = Rank()
    polls = rank.polls(Mesh(0, 1, 1, 1, None, torch.device("cpu")))
    assert polls.answers() == Answers(False, 0, 0)
    values: Any = {"stop": 1, "overdue": 2, "ended": 3}
    vars(rank).update(values)
    assert polls.answers() == Answers(True, 2, 3)
