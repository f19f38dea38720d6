"""Shards: what safetensors writes, read by byte range, and damage that is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from goku.contract.store import Store
from goku.data.shards import BrokenShard, Shard, write_shard

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.tuples(SHAPES, DTYPES), min_size=1, max_size=5))
def test_tensors_come_back_bit_for_bit(
    described: dict[str, tuple[tuple[int, ...], torch.dtype]],
) -> None:
    store = Store("memory://shards-round-trip")
    tensors = {key: torch.randn(shape).to(dtype) for key, (shape, dtype) in described.items()}
    assert write_shard(store, "a.safetensors", tensors) == store.size("a.safetensors")
    shard = Shard(store, "a.safetensors")
    for key, tensor in tensors.items():
        found = shard.read(key)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_views_are_written_whole() -> None:
    store = Store("memory://shards-views")
    wide = torch.arange(12.0).reshape(3, 4)
    write_shard(store, "a", {"left": wide[:, :2], "turned": wide.T})
    assert torch.equal(Shard(store, "a").read("left"), wide[:, :2])
    assert torch.equal(Shard(store, "a").read("turned"), wide.T)


def test_only_the_span_of_a_tensor_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://shards-spans")
    write_shard(store, "a", {"big": torch.zeros(10_000), "small": torch.ones(3)})
    read, spans = Store.read_range, []

    def spy(self: Store, name: str, start: int, end: int) -> bytes:
        spans.append(end - start)
        return read(self, name, start, end)

    monkeypatch.setattr(Store, "read_range", spy)
    shard = Shard(store, "a")
    shard.read("small")
    shard.read("small")
    assert len(spans) == 4  # length, header, and the tensor twice
    assert spans[2:] == [12, 12]


def test_damage_is_named() -> None:
    store = Store("memory://shards-damage")
    write_shard(store, "a.safetensors", {"x": torch.ones(100)})
    data = store.read("a.safetensors")
    store.write("a.safetensors", data[:-1])
    with pytest.raises(BrokenShard, match=r"a\.safetensors.*it ends at byte"):
        Shard(store, "a.safetensors").read("x")
    store.write("a.safetensors", b"\xff" * 100)
    with pytest.raises(BrokenShard, match="no safetensors file"):
        Shard(store, "a.safetensors").read("x")
    store.write("a.safetensors", data[:8] + b"?" * (len(data) - 8))
    with pytest.raises(BrokenShard, match="its header is not one"):
        Shard(store, "a.safetensors").read("x")
    with pytest.raises(FileNotFoundError):
        Shard(store, "none").read("x")


def test_no_flipped_bit_goes_unnoticed() -> None:
    """A tensor comes back as it was, or the shard is broken."""
    store = Store("memory://shards-flipped")
    tensors = {"latent/a": torch.randn(3, 5), "text/a": torch.randn(4, 2).bfloat16()}
    write_shard(store, "a", tensors)
    data, broken = store.read("a"), 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        store.write("a", bytes(flipped))
        for key, tensor in tensors.items():
            try:
                assert torch.equal(Shard(store, "a").read(key), tensor)
            except BrokenShard:
                broken += 1
    values = sum(tensor.nbytes for tensor in tensors.values())
    assert broken > 8 * values


def test_shards_without_checksums_are_read() -> None:
    store, tensor = Store("memory://shards-before"), torch.randn(3)
    store.write("a", save({"x": tensor}))
    assert torch.equal(Shard(store, "a").read("x"), tensor)
