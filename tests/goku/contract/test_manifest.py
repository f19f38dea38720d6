"""The manifest: what it says survives a round trip, and no changed byte goes unnoticed."""

import hashlib
import json
import zlib
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goku.contract.manifest import (
    CorruptCheckpoint,
    FileEntry,
    Manifest,
    Piece,
    TensorEntry,
    check_piece,
    coverage_gaps,
    missing_files,
    verify,
)
from goku.contract.store import Store

PAYLOAD = bytes(range(48))


def piece(start: int, length: int, file: str = "data") -> Piece:
    data = PAYLOAD[4 * start : 4 * (start + length)]
    return Piece(
        start=start,
        length=length,
        file=file,
        offset=4 * start,
        nbytes=len(data),
        crc32=zlib.crc32(data),
    )


def manifest(*pieces: Piece, step: int = 7, attempt: int = 1) -> Manifest:
    entry = TensorEntry(shape=(3, 4), dtype="F32", pieces=pieces or (piece(0, 5), piece(5, 7)))
    return Manifest(
        step=step,
        attempt=attempt,
        samples_seen=70,
        optimizer_steps=6,
        world_size=2,
        config_digest="0123456789abcdef",
        code_version="1.0",
        created_at=1.5,
        tensors={"model/weight": entry},
        files={"data": FileEntry(nbytes=len(PAYLOAD))},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    store.write("data", PAYLOAD)
    return store


def test_round_trip() -> None:
    assert Manifest.decode(manifest().encode()) == manifest()
    assert manifest().nbytes == len(PAYLOAD)
    assert manifest().tensors["model/weight"].numel == 12


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_changed_or_missing_byte_goes_unnoticed(data: st.DataObject) -> None:
    encoded = manifest().encode()
    at = data.draw(st.integers(0, len(encoded) - 2))  # the last one is only a line's end
    changed = data.draw(st.integers(0, 255).filter(lambda byte: byte != encoded[at]))
    with pytest.raises(CorruptCheckpoint, match=r"manifest\.json"):
        Manifest.decode(encoded[:at] + bytes([changed]) + encoded[at + 1 :])
    with pytest.raises(CorruptCheckpoint):
        Manifest.decode(encoded[:at])


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpoint):
        Manifest.decode(data)


def test_another_format_is_refused_with_advice() -> None:
    newer = manifest().model_copy(update={"format": 3})
    with pytest.raises(CorruptCheckpoint, match=r"format 3.*Upgrade"):
        Manifest.decode(newer.encode())


def test_a_format_with_other_fields_is_refused_with_the_same_advice() -> None:
    body = b'{"format": 3, "stages": []}'
    newer = body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"
    with pytest.raises(CorruptCheckpoint, match=r"format 3.*Upgrade"):
        Manifest.decode(newer)


def test_a_manifest_with_a_wrong_field_is_refused_on_one_line() -> None:
    body = b'{"format": 2, "step": "twenty"}'
    strange = body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"
    with pytest.raises(CorruptCheckpoint, match=r"of this format \(step: Input should be .*\)$"):
        Manifest.decode(strange)


@given(st.sets(st.integers(1, 11)), st.randoms(use_true_random=False))
def test_pieces_that_tile_have_no_gap_in_any_order(cuts: set[int], random: Random) -> None:
    edges = [0, *sorted(cuts), 12]
    pieces = [piece(start, end - start) for start, end in pairwise(edges)]
    random.shuffle(pieces)
    assert list(coverage_gaps(manifest(*pieces))) == []


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((piece(0, 5), piece(6, 6)), id="hole"),
        pytest.param((piece(0, 6), piece(5, 7)), id="overlap"),
        pytest.param((piece(0, 11),), id="short"),
        pytest.param((piece(1, 11),), id="late"),
    ],
)
def test_gaps_are_named(pieces: tuple[Piece, ...], store: Store) -> None:
    broken = manifest(*pieces)
    assert list(coverage_gaps(broken)) == ["model/weight"]
    assert next(verify(store, broken)) == "model/weight: its pieces do not cover it"


def test_a_sound_checkpoint_has_nothing_to_report(store: Store) -> None:
    assert list(missing_files(store, manifest())) == []
    assert list(verify(store, manifest())) == []


def test_a_missing_or_short_file_is_named_with_the_reason(store: Store) -> None:
    store.write("data", PAYLOAD[:-1])
    assert list(verify(store, manifest())) == ["data: has 47 bytes, the manifest says 48"]
    store.delete("data")
    assert list(missing_files(store, manifest())) == ["data: is missing, the manifest says 48"]


@settings(deadline=None)
@given(at=st.integers(0, len(PAYLOAD) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_payload_is_found(at: int, bit: int) -> None:
    flipped = bytearray(PAYLOAD)
    flipped[at] ^= 1 << bit
    store = Store("memory://flipped")
    store.write("data", bytes(flipped))
    hit = [p for p in (piece(0, 5), piece(5, 7)) if p.offset <= at < p.offset + p.nbytes]
    start, end = hit[0].offset, hit[0].offset + hit[0].nbytes
    assert list(verify(store, manifest())) == [f"data: bytes {start} to {end} have changed"]
    said = f"memory://flipped/data: bytes {start} to {end} have changed. .*ckpt promote"
    with pytest.raises(CorruptCheckpoint, match=said):
        check_piece(bytes(flipped)[start:end], hit[0], of=store)


def test_bytes_without_a_checksum_are_a_problem(store: Store) -> None:
    entry = TensorEntry(shape=(7,), dtype="F32", pieces=(piece(0, 5), piece(5, 2)))
    holed = manifest().model_copy(update={"tensors": {"model/weight": entry}})
    assert list(verify(store, holed)) == ["data: bytes 28 to 48 have no checksum or two"]


def test_verify_tells_how_far_it_is(store: Store) -> None:
    read: list[int] = []
    assert list(verify(store, manifest(), progress=read.append)) == []
    assert sum(read) == len(PAYLOAD)


@pytest.mark.parametrize(("at", "said"), [(None, []), (3, ["data: its SHA-256 does not match"])])
def test_format_1_is_still_read(at: int | None, said: list[str], store: Store) -> None:
    """It had a digest of each whole file in place of the header's checksum."""
    old = json.loads(manifest().model_dump_json())
    for key in ("save_seconds", "metrics"):
        del old[key]
    old["format"] = 1
    old["files"] = {"data": {"nbytes": 48, "sha256": hashlib.sha256(PAYLOAD).hexdigest()}}
    body = json.dumps(old).encode()
    found = Manifest.decode(body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n")
    changed = bytearray(PAYLOAD)
    if at is not None:
        changed[at] ^= 1
    store.write("data", bytes(changed))
    assert [problem.split(",")[0] for problem in verify(store, found)] == said


def test_the_right_bytes_pass(store: Store) -> None:
    check_piece(PAYLOAD[:20], piece(0, 5), of=store)
    with pytest.raises(CorruptCheckpoint):
        check_piece(PAYLOAD[:19], piece(0, 5), of=store)
