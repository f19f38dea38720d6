"""Shards: what safetensors writes, read by byte range, and damage that is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from goku.contract.store import Store
from goku.data.shards import BrokenShard, Shard, Span, crc32_of, write_shard

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
NAMES = st.text(min_size=1).filter(lambda name: name != "__metadata__")  # the format's own


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES), min_size=1, max_size=5))
def test_tensors_come_back_bit_for_bit(
    described: dict[str, tuple[tuple[int, ...], torch.dtype]],
) -> None:
    store = Store("memory://shards-round-trip")
    tensors = {key: torch.randn(shape).to(dtype) for key, (shape, dtype) in described.items()}
    starts = write_shard(store, "a.safetensors", tensors)
    data, shard = store.read("a.safetensors"), Shard(store, "a.safetensors")
    whole = load(data)
    assert whole.keys() == tensors.keys() == starts.keys()
    for key, tensor in tensors.items():
        placed = Span("a.safetensors", starts[key], crc32_of([tensor]))
        [alone] = placed.read(store, [(tensor.shape, tensor.dtype)])
        for found in (shard.read(key), whole[key], alone):
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)


def test_neighbours_come_by_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they were given, which is not that of their names."""
    store = Store("memory://shards-neighbours")
    tensors = {"z": torch.randn(3, 5).half(), "y": torch.randn(7).bfloat16(), "a": torch.ones(2)}
    starts = write_shard(store, "s", tensors)
    both = [tensors["z"], tensors["y"]]
    asked: list[tuple[int, int]] = []
    read = Store.read_into

    def spy(self: Store, name: str, start: int, *buffers: memoryview) -> int:
        asked.append((start, sum(map(len, buffers))))
        return read(self, name, start, *buffers)

    monkeypatch.setattr(Store, "read_into", spy)
    monkeypatch.setattr(Store, "read_range", None)
    span = Span("s", starts["z"], crc32_of(both))
    found = span.read(store, [(tensor.shape, tensor.dtype) for tensor in both])
    assert all(torch.equal(a, b) for a, b in zip(found, both, strict=True))
    assert asked == [(starts["z"], 44)]


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


def test_no_flipped_bit_of_a_span_goes_unnoticed() -> None:
    store, tensors = Store("memory://shards-span"), {"a": torch.randn(3), "b": torch.randn(2, 2)}
    span = Span("s", write_shard(store, "s", tensors)["a"], crc32_of(tensors.values()))
    forms = [(tensor.shape, tensor.dtype) for tensor in tensors.values()]
    data = store.read("s")
    for bit in range(8 * span.start, 8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        store.write("s", bytes(flipped))
        with pytest.raises(BrokenShard, match=r"s in .*the bytes from \d+ on have changed"):
            span.read(store, forms)
    store.write("s", data[:-3])
    with pytest.raises(BrokenShard, match=f"it ends at byte {len(data) - 3}, 3 too soon"):
        span.read(store, forms)
    with pytest.raises(FileNotFoundError):
        span._replace(shard="none").read(store, forms)


def test_shards_without_checksums_are_read() -> None:
    store, tensor = Store("memory://shards-before"), torch.randn(3)
    store.write("a", save({"x": tensor}))
    assert torch.equal(Shard(store, "a").read("x"), tensor)
