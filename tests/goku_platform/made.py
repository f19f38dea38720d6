"""Runs made by hand: configurations, checkpoints and attempts, without training anything."""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goku.config import RunConfig, presets
from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import EXIT_OF, Cause
from goku.contract.manifest import FileEntry, Manifest, Piece, TensorEntry
from goku.contract.rundir import RunDir

PAYLOAD = b"weights" * 100

Array = NDArray[np.generic]


def config(store: str, preset: str = "stage1", **overrides: Any) -> RunConfig:
    """A tiny run."""
    return presets.build(preset, store=store, size="tiny", overrides=overrides)


def run(store: str, preset: str = "stage1", **overrides: Any) -> RunDir:
    """A frozen run that nobody has started."""
    frozen = config(store, preset, **overrides)
    made = RunDir(f"{store}/{frozen.name}")
    assert made.freeze(frozen, "test")
    return made


def checkpoint(made: RunDir, step: int, *, attempt: int = 1, save_seconds: float = 0.0) -> Manifest:
    """A complete checkpoint of one file."""
    folder = made.checkpoint(step)
    folder.write("rank-0.bin", PAYLOAD)
    manifest = Manifest(
        step=step,
        attempt=attempt,
        samples_seen=step * 10,
        optimizer_steps=step,
        world_size=2,
        config_digest=made.config().digest(),
        code_version="test",
        created_at=1_700_000_000.0,
        save_seconds=save_seconds,
        tensors={},
        files={
            "rank-0.bin": FileEntry(nbytes=len(PAYLOAD), sha256=hashlib.sha256(PAYLOAD).hexdigest())
        },
    )
    folder.create("manifest.json", manifest.encode())
    return manifest


def saved(
    made: RunDir, step: int, tensors: Mapping[str, Array], *, world: int = 2, attempt: int = 1
) -> Manifest:
    """A complete checkpoint of these tensors (float32, or uint16 for bfloat16), cut by ranks."""
    folder, pieces = made.checkpoint(step), dict[str, list[Piece]]()
    files: dict[str, FileEntry] = {}
    for rank in range(world):
        name, data = f"attempt-{attempt:04d}-rank-{rank:05d}.safetensors", bytearray()
        for tensor, values in tensors.items():
            start, end = (len(values.flat) * part // world for part in (rank, rank + 1))
            part = values.reshape(-1)[start:end].tobytes()
            where = {"start": start, "length": end - start, "file": name}
            where |= {"offset": len(data), "nbytes": len(part), "crc32": zlib.crc32(part)}
            pieces.setdefault(tensor, []).append(Piece.model_validate(where))
            data += part
        folder.write(name, bytes(data))
        files[name] = FileEntry(nbytes=len(data))
    manifest = Manifest(
        step=step,
        attempt=attempt,
        samples_seen=step * 10,
        optimizer_steps=step,
        world_size=world,
        config_digest=made.config().digest(),
        code_version="test",
        created_at=1_700_000_000.0,
        tensors={
            name: TensorEntry(
                shape=values.shape,
                dtype="BF16" if values.dtype == np.uint16 else "F32",
                pieces=tuple(pieces[name]),
            )
            for name, values in tensors.items()
        },
        files=files,
    )
    folder.write("manifest.json", manifest.encode())
    return manifest


def attempt(made: RunDir, cause: Cause, **fields: Any) -> Attempt:
    """One attempt in the ledger, with the exit code of its cause."""
    opened = Ledger(made).open(host="here", nodes=1, processes_per_node=2)
    over = cause is not Cause.RUNNING
    update = {
        "started_at": 1_700_000_000.0,
        "ended_at": 1_700_000_100.0 if over else None,
        "cause": cause,
        "exit_code": EXIT_OF.get(cause),
        **fields,
    }
    closed = opened.model_copy(update=update)
    Ledger(made).close(closed)
    return closed
