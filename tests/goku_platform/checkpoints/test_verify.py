"""Listing and verifying: complete, cut short, changed by one bit, never committed."""

import pytest

from goku.contract.rundir import RunDir
from goku_platform.errors import RunError
from goku_platform.runs.checkpoints.look import Checkpoint, listing
from goku_platform.runs.checkpoints.verify import chosen, verified
from tests.goku_platform import made


@pytest.fixture
def run(store: str) -> RunDir:
    made_run = made.run(store)
    for step in (20, 40):
        made.checkpoint(made_run, step)
    return made_run


def checked(run: RunDir, *, step: int | None = None, every: bool = False) -> tuple[Checkpoint, ...]:
    return verified(run, chosen(run, step=step, every=every))


def test_a_listing_tells_complete_from_incomplete(run: RunDir) -> None:
    run.checkpoint(20).write("rank-0.bin", b"short")
    run.checkpoint(60).write("rank-0.bin", made.PAYLOAD)
    cut, whole, uncommitted = listing(run)
    assert (whole.step, whole.complete, whole.nbytes) == (40, True, len(made.PAYLOAD))
    assert cut.problems == ("rank-0.bin: has 5 bytes, the manifest says 700",)
    assert uncommitted.problems == ("manifest.json: is missing: the save never ended",)


def test_one_changed_bit_is_found_by_reading(run: RunDir) -> None:
    changed = bytearray(made.PAYLOAD)
    changed[3] ^= 1
    run.checkpoint(40).write("rank-0.bin", bytes(changed))
    assert all(checkpoint.complete for checkpoint in listing(run))
    [newest] = checked(run)
    assert newest.problems == ("rank-0.bin: its SHA-256 does not match, bytes have changed",)
    assert [checkpoint.complete for checkpoint in checked(run, every=True)] == [True, False]
    assert checked(run, step=20)[0].complete


def test_a_damaged_manifest_is_a_problem_not_an_accident(run: RunDir) -> None:
    data = bytearray(run.checkpoint(40).read("manifest.json"))
    data[10] ^= 1
    run.checkpoint(40).write("manifest.json", bytes(data))
    [newest] = checked(run)
    assert "manifest.json: the manifest's own digest" in newest.problems[0]


def test_a_save_that_never_ended_is_not_the_newest(run: RunDir) -> None:
    run.checkpoint(60).write("rank-0.bin", made.PAYLOAD)
    assert [checkpoint.step for checkpoint in checked(run)] == [40]
    assert not checked(run, step=60)[0].complete


def test_it_tells_of_every_byte(run: RunDir) -> None:
    read: list[int] = []
    verified(run, chosen(run, every=True), read.append)
    assert sum(read) == 2 * len(made.PAYLOAD)


def test_nothing_to_verify(run: RunDir, store: str) -> None:
    with pytest.raises(RunError, match=r"no checkpoint of step 30. Steps there are: 20, 40"):
        checked(run, step=30)
    with pytest.raises(RunError, match=r"it has no complete checkpoint. Steps there are: none"):
        checked(made.run(store, "stage2"))
