"""What is sent over a wire arrives as it was, and a lost end is told from an error."""

import gc
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from goku.data.wire import Gone, Wire
from goku.nn.layout import Layout


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    one, other = socket.socketpair()
    with one, other:
        yield Wire(one), Wire(other)


def sent(ends: tuple[Wire, Wire], item: object) -> Any:
    here, there = ends
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(here.send, item)
        found = there.receive()
        sending.result()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.bool])
def test_tensors_of_any_dtype_and_size_arrive(ends: tuple[Wire, Wire], dtype: torch.dtype) -> None:
    for shape in ((), (0, 3), (5,), (1000, 1001)):
        tensor = torch.randint(0, 2, shape).to(dtype)
        found = sent(ends, {"x": tensor, "y": 3})
        assert found["y"] == 3
        assert found["x"].dtype == dtype
        assert torch.equal(found["x"], tensor)


def test_a_view_arrives_without_what_is_around_it(ends: tuple[Wire, Wire]) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    found = sent(ends, [x[:, 1:3], x.T])
    assert torch.equal(found[0], x[:, 1:3])
    assert torch.equal(found[1], x.T)
    assert found[0].untyped_storage().nbytes() == 24


def test_what_is_one_tensor_stays_one(ends: tuple[Wire, Wire]) -> None:
    layout = Layout.build([(1, 2, 3), (2, 2, 2)], [4, 0])
    found = sent(ends, layout)
    assert found.spans is found.full_spans
    assert found.spans.starts is found.spans.host
    assert found.lengths == layout.lengths
    assert torch.equal(found.position_N3, layout.position_N3)
    assert found.text_spans.lengths == [4, 0]


def test_messages_follow_one_another(ends: tuple[Wire, Wire]) -> None:
    here, there = ends
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: [here.send(torch.full((n,), float(n))) for n in range(50)])
        assert [there.receive().sum() for _ in range(50)] == [n * n for n in range(50)]


def test_an_end_that_is_gone_is_told(ends: tuple[Wire, Wire]) -> None:
    here, there = ends
    here.hang_up()
    with pytest.raises(Gone):
        there.receive()
    with pytest.raises(Gone):
        there.send(torch.zeros(10_000_000))
    with pytest.raises(Gone):
        here.receive()


def test_half_a_message_is_no_message() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall((100).to_bytes(8, "little") + b"begun")
        one.close()
        with pytest.raises(Gone):
            Wire(other).receive()


def test_nothing_is_kept_of_what_was_sent(ends: tuple[Wire, Wire]) -> None:
    gc.collect()
    before = sum(type(found) is torch.Tensor for found in gc.get_objects())
    for _ in range(3):
        sent(ends, [torch.ones(3)])
    gc.collect()
    assert sum(type(found) is torch.Tensor for found in gc.get_objects()) <= before
