"""Each byte of a checkpoint changed in turn: verify finds it, load refuses it, naming the file."""

from pathlib import Path

import pytest
import torch

from goku.checkpoint import files
from goku.checkpoint.load import Checkpoint
from goku.checkpoint.state import NamedPiece
from goku.contract.manifest import NAME, CorruptCheckpoint, Manifest, verify
from goku.contract.rundir import RunDir

STEP = 10
FLIPS = (0x01, 0x80)


def pieces(rank: int) -> list[NamedPiece]:
    """This rank's half of two tensors, and bytes of its own."""
    values = torch.arange(24.0) + 1
    return [
        NamedPiece("model/w", (6, 8), 24 * rank, values),
        NamedPiece("ema/w", (6, 8), 24 * rank, (values * 2).to(torch.bfloat16)),
        NamedPiece(f"rng/{rank}/cpu", (7,), 0, torch.full((7,), rank + 1, dtype=torch.uint8)),
    ]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A checkpoint of two ranks, in pieces of 32 bytes."""
    monkeypatch.setattr(files, "CHUNK", 32)
    made = RunDir(str(tmp_path / "run"))
    written = [files.write(made.checkpoint(STEP), f"rank-{n}", pieces(n)) for n in (0, 1)]
    tensors = dict(written[0].tensors)
    for name, entry in written[1].tensors.items():
        before = tensors[name].pieces if name in tensors else ()
        tensors[name] = entry.model_copy(update={"pieces": before + entry.pieces})
    made.commit(
        Manifest(
            step=STEP,
            attempt=1,
            samples_seen=0,
            optimizer_steps=0,
            world_size=2,
            config_digest="d",
            code_version="v",
            created_at=0.0,
            tensors=tensors,
            files={part.name: part.entry for part in written},
        )
    )
    return made


def load(run: RunDir) -> None:
    """Read all of it, as ranks of another world would."""
    checkpoint = Checkpoint(run.checkpoint(STEP), run.manifest(STEP))
    wanted = [
        NamedPiece(name, entry.shape, 0, torch.empty(entry.numel, dtype=dtype))
        for name, entry in checkpoint.manifest.tensors.items()
        for dtype in [
            {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8}[entry.dtype]
        ]
    ]
    checkpoint.read(*wanted)


def problems(run: RunDir) -> list[str]:
    try:
        return list(verify(run.checkpoint(STEP), run.manifest(STEP)))
    except CorruptCheckpoint as error:
        return [str(error)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rank-0", "rank-1", NAME])
def test_a_changed_byte_is_found_and_refused(run: RunDir, name: str) -> None:
    assert problems(run) == []
    load(run)
    path = run.checkpoint(STEP).local_path(name)
    assert path is not None
    whole = path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= FLIPS[at % len(FLIPS)]
        path.write_bytes(changed)
        found = problems(run)
        assert found, f"byte {at} of {name}: verify says nothing"
        assert name in found[0]
        with pytest.raises(CorruptCheckpoint, match=name):
            load(run)
    path.write_bytes(whole)
    assert problems(run) == []


@pytest.mark.parametrize("name", ["rank-0", NAME])
@pytest.mark.parametrize("change", ["short", "long", "gone"])
def test_a_file_of_another_size_is_found_and_refused(run: RunDir, name: str, change: str) -> None:
    folder = run.checkpoint(STEP)
    data = folder.read(name)
    if change == "gone":
        folder.delete(name)
    else:
        folder.write(name, data[:-3] if change == "short" else data + b"more")
    if (name, change) == (NAME, "gone"):
        assert run.latest() is None
        return
    assert name in problems(run)[0]
    with pytest.raises(CorruptCheckpoint, match=name):
        load(run)
