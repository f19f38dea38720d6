"""A file that several threads write is the bytes that it was given, or an error."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goku.contract.store import Store
from goku.contract.store.local_file import LocalFile

SIZES = st.lists(st.sampled_from([0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 7]), max_size=12)


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, views=st.lists(st.booleans(), min_size=12, max_size=12))
def test_parts_of_all_sizes_keep_their_order(
    sizes: list[int], views: list[bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("file") / "data"
    parts = [os.urandom(size) for size in sizes]
    with LocalFile(path) as stream:
        for part, view in zip(parts, views, strict=False):
            assert stream.write(memoryview(part) if view else part) == len(part)
        assert stream.tell() == sum(sizes)
        stream.settle()
        assert path.read_bytes() == b"".join(parts)


def test_a_part_that_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(str(tmp_path))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"), store.writer("data") as stream:
        stream.write(memoryview(bytes(1 << 20)))
    assert list(tmp_path.iterdir()) == []


def test_an_error_comes_before_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with LocalFile(tmp_path / "data") as stream:
        with pytest.raises(OSError, match="No space left"):
            stream.writelines([memoryview(bytes(1 << 20))] * 100)
        assert stream.tell() < 100 << 20
