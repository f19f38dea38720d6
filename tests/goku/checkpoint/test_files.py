"""One rank's file: real safetensors, pieces that say where their bytes are, whole or not at all."""

import re
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from goku.checkpoint import files
from goku.checkpoint.load import Checkpoint, weights
from goku.checkpoint.plan import plan
from goku.checkpoint.state import NamedPiece
from goku.config import ConfigError
from goku.contract.manifest import CorruptCheckpoint, Manifest, TensorEntry, verify
from goku.contract.store import Store

NAME = "attempt-0001-rank-00000.safetensors"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def whole(name: str, tensor: Tensor) -> NamedPiece:
    return NamedPiece(name, tuple(tensor.shape), 0, tensor.flatten())


def saved() -> list[NamedPiece]:
    torch.manual_seed(0)
    return [
        whole("ema/weight", torch.randn(7, 11)),
        whole("ema/bias", torch.randn(3)),
        whole("model/half", torch.randn(40).to(torch.bfloat16)),
        whole("rng/0/cpu", torch.randint(0, 255, (77,), dtype=torch.uint8)),
    ]


def manifest_of(*written: files.Written) -> Manifest:
    tensors: dict[str, TensorEntry] = {}
    for part in written:
        for name, entry in part.tensors.items():
            before = tensors[name].pieces if name in tensors else ()
            tensors[name] = entry.model_copy(update={"pieces": before + entry.pieces})
    return Manifest(
        step=3,
        attempt=1,
        samples_seen=0,
        optimizer_steps=3,
        world_size=len(written),
        config_digest="d",
        code_version="v",
        created_at=0.0,
        tensors=tensors,
        files={part.name: part.entry for part in written},
    )


def test_the_safetensors_library_reads_the_file(store: Store, tmp_path: Path) -> None:
    files.write(store, NAME, saved())
    loaded = load_file(tmp_path / NAME)
    assert {name: t.dtype for name, t in loaded.items()} == {
        piece.name: piece.tensor.dtype for piece in saved()
    }
    for piece in saved():
        assert torch.equal(loaded[piece.name], piece.tensor)


def test_the_description_is_of_the_bytes_in_the_file(store: Store) -> None:
    written = files.write(store, NAME, saved())
    data = store.read(NAME)
    assert written.entry.nbytes == len(data)
    header = data[: written.entry.header_nbytes]
    assert len(header) == 8 + int.from_bytes(data[:8], "little")
    assert written.entry.header_crc32 == zlib.crc32(header)
    assert list(verify(store, manifest_of(written))) == []
    pieces = written.tensors["ema/weight"].pieces
    assert [piece.nbytes for piece in pieces] == [64, 64, 64, 64, 52]
    assert [piece.start for piece in pieces] == [0, 16, 32, 48, 64]


def test_a_write_that_fails_leaves_no_file(store: Store) -> None:
    broken = [*saved(), whole("odd", torch.zeros(2, dtype=torch.complex64))]
    with pytest.raises(KeyError):
        files.write(store, NAME, broken)
    assert store.list() == []


@given(cut=st.integers(1, 76), first=st.integers(0, 76), length=st.integers(1, 77))
def test_any_interval_is_read_from_any_cut(cut: int, first: int, length: int) -> None:
    """Two ranks saved [0, cut) and [cut, 77); one wants [first, first + length)."""
    store = Store("memory://intervals")
    flat = torch.arange(77.0)
    parts = [
        files.write(store, f"rank-{i}", [NamedPiece("ema/w", (7, 11), start, flat[start:end])])
        for i, (start, end) in enumerate([(0, cut), (cut, 77)])
    ]
    last = min(77, first + length)
    wanted = NamedPiece("ema/w", (7, 11), first, torch.zeros(last - first))
    Checkpoint(store, manifest_of(*parts)).read(wanted)
    assert torch.equal(wanted.tensor, flat[first:last])


def test_whole_weights_come_back_in_their_shape(store: Store) -> None:
    checkpoint = Checkpoint(store, manifest_of(files.write(store, NAME, saved())))
    found = weights(checkpoint, kind="ema")
    assert list(found) == ["weight", "bias"]
    assert found["weight"].shape == (7, 11)
    assert torch.equal(found["weight"].flatten(), saved()[0].tensor)
    assert weights(checkpoint, kind="model")["half"].dtype == torch.bfloat16


def test_any_flipped_byte_is_refused_by_load_and_found_by_verify() -> None:
    store, tensors = Store("memory://every-byte"), [whole("w", torch.arange(20.0))]
    manifest = manifest_of(files.write(store, NAME, tensors))
    data = store.read(NAME)
    assert len(data) == 8 + 88 + 80
    for at in range(len(data)):
        store.write(NAME, data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        [problem] = verify(store, manifest)
        assert re.fullmatch(rf"{NAME}: bytes \d+ to \d+ have changed", problem)
        with pytest.raises(CorruptCheckpoint, match=f"{NAME}: bytes .* have changed"):
            Checkpoint(store, manifest).read(*tensors)


def test_pieces_wanted_whole_are_read_into_their_tensors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten pieces of four tensors, in one range; memory around the tensors stays as it was."""
    checkpoint = Checkpoint(store, manifest_of(files.write(store, NAME, saved())))
    monkeypatch.setattr(Checkpoint, "_room", None)  # no other memory is taken
    rooms = [torch.zeros(len(p.tensor) + 3, dtype=p.tensor.dtype) for p in saved()]
    wanted = [p._replace(tensor=room[1:-2]) for p, room in zip(saved(), rooms, strict=True)]
    assert [len(found.parts) for found in plan(checkpoint.manifest, wanted)] == [10]
    checkpoint.read(*wanted)
    for piece, room in zip(saved(), rooms, strict=True):
        assert torch.equal(room[1:-2], piece.tensor)
        assert not room[[0, -2, -1]].any()


def test_each_piece_of_a_range_is_checked_in_its_tensor(store: Store) -> None:
    manifest = manifest_of(files.write(store, NAME, saved()))
    data = store.read(NAME)
    pieces = [piece for entry in manifest.tensors.values() for piece in entry.pieces]
    assert len(pieces) == 10
    for piece in pieces:
        end = piece.offset + piece.nbytes
        store.write(NAME, data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:])
        with pytest.raises(CorruptCheckpoint, match=rf": bytes {piece.offset} to {end} have"):
            read_everything(Checkpoint(store, manifest))


def test_what_cannot_be_read_into_its_tensor_is_copied_beside_what_can(store: Store) -> None:
    """Of one range: pieces wanted whole and in part, as another type, and into every second."""
    checkpoint = Checkpoint(store, manifest_of(files.write(store, NAME, saved())))
    weight, bias, half, state = (piece.tensor for piece in saved())
    part, spread, wide, beside = torch.zeros(40), torch.zeros(6), torch.zeros(40), state.clone()
    wanted = [
        NamedPiece("ema/weight", (7, 11), 10, part),
        NamedPiece("ema/bias", (3,), 0, spread[::2]),
        NamedPiece("model/half", (40,), 0, wide),
        NamedPiece("rng/0/cpu", (77,), 0, beside.zero_()),
    ]
    checkpoint.read(*wanted)
    assert torch.equal(part, weight[10:50])
    assert torch.equal(spread, torch.stack([bias, torch.zeros(3)], 1).flatten())
    assert torch.equal(wide, half.float())
    assert torch.equal(beside, state)


def test_a_file_that_has_become_shorter_is_refused_whatever_the_tensors_hold(store: Store) -> None:
    checkpoint, wanted = Checkpoint(store, manifest_of(files.write(store, NAME, saved()))), saved()
    checkpoint.read(*wanted)
    store.write(NAME, store.read(NAME)[:-1])
    with pytest.raises(CorruptCheckpoint, match=rf"{NAME}: bytes \d+ to \d+ have changed"):
        checkpoint.read(*wanted)


def read_everything(checkpoint: Checkpoint) -> None:
    checkpoint.read(*saved())


def test_a_short_or_missing_file_is_refused(store: Store) -> None:
    manifest = manifest_of(files.write(store, NAME, saved()))
    store.write(NAME, store.read(NAME)[:-1])
    with pytest.raises(CorruptCheckpoint, match=rf"{NAME}: has \d+ bytes, the manifest says"):
        read_everything(Checkpoint(store, manifest))
    store.delete(NAME)
    with pytest.raises(CorruptCheckpoint, match=f"{NAME}: is missing"):
        read_everything(Checkpoint(store, manifest))


def test_a_missing_tensor_and_another_shape_are_told_apart(store: Store) -> None:
    checkpoint = Checkpoint(store, manifest_of(files.write(store, NAME, saved())))
    with pytest.raises(CorruptCheckpoint, match="step 3: it holds no ema/other"):
        checkpoint.read(whole("ema/other", torch.zeros(3)))
    with pytest.raises(ConfigError, match=r"ema/weight of shape \(7, 12\).*\(7, 11\)"):
        checkpoint.read(whole("ema/weight", torch.zeros(7, 12)))


def test_a_hole_between_pieces_is_refused(store: Store) -> None:
    manifest = manifest_of(files.write(store, NAME, saved()))
    entry = manifest.tensors["ema/weight"]
    holed = entry.model_copy(update={"pieces": entry.pieces[:2] + entry.pieces[3:]})
    broken = manifest.model_copy(update={"tensors": {"ema/weight": holed}})
    with pytest.raises(CorruptCheckpoint, match="ema/weight: its pieces do not cover it"):
        Checkpoint(store, broken).read(saved()[0])
