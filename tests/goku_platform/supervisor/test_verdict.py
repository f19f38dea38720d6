"""The table from evidence to cause: its rows, their order, and that it always answers."""

import itertools

import pytest

from goku.contract.exits import EXIT_OF, Cause
from goku.contract.outcome import Failure
from goku.contract.pod import Verdict
from goku_platform.supervisor.verdict import Evidence, Hang, decide

TWO = frozenset({0, 1})
HANG = Hang(rank=1, section="save", silent_seconds=12.34, budget_seconds=10)
KILLED = Failure(rank=1, exit_code=-9, at=100.0, message="Signal 9 (SIGKILL) received by PID 7")
RAISED = Failure(rank=0, exit_code=139, at=100.0, message="see the log")


def said(*causes: Cause | None) -> dict[int, Verdict]:
    """Verdicts by rank; None for a rank that said nothing."""
    return {
        rank: Verdict(cause, f"message of {rank}")
        for rank, cause in enumerate(causes)
        if cause is not None
    }


def seen(*causes: Cause | None, **more: object) -> Evidence:
    return Evidence(TWO, said(*causes))._replace(**more)


DONE, YIELDED, CRASHED = Cause.DONE, Cause.YIELDED, Cause.CRASHED
ROWS = [
    ("not started", seen(exit_code=None), YIELDED, "before the program was started"),
    ("done", seen(DONE, DONE), DONE, ""),
    ("an abort at exit is no matter", seen(DONE, DONE, exit_code=-6), DONE, ""),
    ("nor is a kill then", seen(DONE, DONE, failures=(KILLED,), oom_kills=1), DONE, ""),
    ("yielded", seen(YIELDED, YIELDED), YIELDED, "saved and left"),
    ("one was through", seen(DONE, YIELDED), YIELDED, "saved and left"),
    ("saved just in time", seen(YIELDED, YIELDED, overran_seconds=5.0), YIELDED, "saved and left"),
    ("not durable", seen(YIELDED, YIELDED, saved=False), Cause.UNSAVED, "durable last step"),
    ("overran", seen(None, None, overran_seconds=5.0, saved=False), Cause.UNSAVED, "within 5 s"),
    (
        "one did not save",
        seen(YIELDED, None, overran_seconds=5.0, saved=False),
        Cause.UNSAVED,
        "within 5 s",
    ),
    ("overran before a step", seen(None, None, overran_seconds=5.0), YIELDED, "nothing left to"),
    ("hung", seen(None, None, hang=HANG, exit_code=-9), Cause.HUNG, "12.3 s in section 'save'"),
    ("user error", seen(Cause.USER_ERROR, None), Cause.USER_ERROR, "rank 0: message of 0"),
    ("it explains a crash", seen(CRASHED, Cause.USER_ERROR), Cause.USER_ERROR, "message of 1"),
    ("torch's memory", seen(CRASHED, Cause.OUT_OF_MEMORY), Cause.OUT_OF_MEMORY, "pack_tokens"),
    (
        "the kernel's",
        seen(CRASHED, None, failures=(KILLED,), oom_kills=1),
        Cause.OUT_OF_MEMORY,
        "rank 1 was killed by the kernel",
    ),
    ("of a worker", seen(CRASHED, CRASHED, oom_kills=2), Cause.OUT_OF_MEMORY, "a process was"),
    ("killed", seen(CRASHED, None, failures=(RAISED, KILLED)), Cause.KILLED, "rank 1 was killed"),
    ("torchrun killed", seen(None, None, exit_code=-9), Cause.KILLED, "the program was killed"),
    (
        "killed in the clearing up",
        seen(CRASHED, None, failures=(RAISED, KILLED._replace(at=130.0))),
        CRASHED,
        "rank 0: message of 0",
    ),
    ("crashed", seen(None, CRASHED), CRASHED, "rank 1: message of 1"),
    (
        "segmentation fault",
        seen(None, None, exit_code=1, failures=(KILLED._replace(exit_code=-11, message="SEGV"),)),
        CRASHED,
        "rank 1 ended with exit code -11: SEGV",
    ),
    ("a save that failed", seen(Cause.UNSAVED, Cause.UNSAVED), Cause.UNSAVED, "rank 0: message"),
    ("given way", seen(Cause.SUPERSEDED, CRASHED), Cause.SUPERSEDED, "message of 0"),
    (
        "fenced",
        seen(None, None, fenced="attempt 2 has", exit_code=-9),
        Cause.SUPERSEDED,
        "attempt 2",
    ),
    ("followed, but said more", seen(CRASHED, None, followed=True), CRASHED, "message of 0"),
    (
        "followed, and killed before our clearing up",
        seen(None, None, followed=True, failures=(KILLED,), cleared_at=105.0, exit_code=1),
        Cause.KILLED,
        "rank 1 was killed",
    ),
    ("followed to a good end", seen(DONE, DONE, followed=True), DONE, ""),
    (
        "torchrun ended by us",
        seen(CRASHED, None, exit_code=-9, cleared_at=100.0),
        CRASHED,
        "message of 0",
    ),
    ("no account at all", seen(DONE, None, exit_code=1), CRASHED, "exit code 1; ranks [1] said"),
    ("gone with 0", seen(None, None, exit_code=0), CRASHED, "exit code 0; ranks [0, 1] said"),
]


@pytest.mark.parametrize(("evidence", "cause", "words"), [row[1:] for row in ROWS])
def test_row(evidence: Evidence, cause: Cause, words: str) -> None:
    verdict = decide(evidence)
    assert verdict is not None
    assert verdict.cause is cause
    assert words in verdict.message


def test_a_single_rank_speaks_for_itself() -> None:
    alone = Evidence(frozenset({0}), said(Cause.USER_ERROR))
    verdict = decide(alone)
    assert verdict is not None
    assert verdict.message == "message of 0"


@pytest.mark.parametrize("code", [0, 1, -9])
def test_a_node_that_only_followed_another_has_no_cause_of_its_own(code: int) -> None:
    ended = seen(None, None, exit_code=code, followed=True, cleared_at=100.5, failures=(KILLED,))
    assert decide(ended) is None


def test_every_combination_has_a_cause_with_an_exit_code() -> None:
    voices = [None, DONE, YIELDED, CRASHED, Cause.USER_ERROR, Cause.OUT_OF_MEMORY]
    for first, second, failures, code, hang, overran, kills, saved in itertools.product(
        voices,
        voices,
        [(), (KILLED,), (RAISED,), (RAISED, KILLED)],
        [None, 0, 1, -9, -6],
        [None, HANG],
        [None, 5.0],
        [0, 1],
        [True, False],
    ):
        evidence = Evidence(TWO, said(first, second), failures, code, hang, overran, kills, saved)
        verdict = decide(evidence)
        assert verdict is not None
        assert verdict.cause in EXIT_OF
        assert "\n" not in verdict.message
        clean = {first, second} <= {DONE, YIELDED, None if overran else DONE}
        if verdict.cause is DONE:
            assert first is second is DONE
        if verdict.cause is YIELDED and code is not None:
            assert clean
            assert saved
