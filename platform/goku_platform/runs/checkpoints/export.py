"""Export: the weights of a checkpoint as plain safetensors, with a config.json beside them.

Streams piece by piece, so that a model of any size passes through one piece of memory. config.json
is written last: a folder without it is an export that broke off, and the next one takes its place.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from goku.contract.manifest import Manifest, TensorEntry
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku.contract.weights import CONFIG
from goku_platform.errors import RunError
from goku_platform.runs.checkpoints.look import complete
from goku_platform.runs.checkpoints.values import stretches, to_bf16, to_float
from goku_platform.runs.checkpoints.watched import Tell, Watched

INDEX = "model.safetensors.index.json"
_BYTES = {"F32": 4, "BF16": 2}
_SUFFIX = ".safetensors"


class Exported(BaseModel):
    """What was written."""

    model_config = ConfigDict(frozen=True)

    uri: str
    step: int
    kind: str
    dtype: str
    tensors: int
    nbytes: int  # of tensors
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What to take of which checkpoint. `kind` is "ema" or "model", `dtype` "F32" or "BF16"."""

    run: RunDir
    manifest: Manifest
    kind: str
    dtype: str
    shard_bytes: int

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """By parameter name, in the order in which they were saved."""
        prefix = f"{self.kind}/"
        found = self.manifest.tensors.items()
        return {n.removeprefix(prefix): entry for n, entry in found if n.startswith(prefix)}

    @property
    def read_bytes(self) -> int:
        """Of the checkpoint."""
        return sum(piece.nbytes for entry in self.tensors.values() for piece in entry.pieces)

    def shards(self) -> dict[str, list[str]]:
        """Parameter names by file; no file is larger than asked, but for one with one tensor."""
        groups: list[list[str]] = [[]]
        room = self.shard_bytes
        for name, entry in self.tensors.items():
            nbytes = entry.numel * _BYTES[self.dtype]
            if nbytes > room and groups[-1]:
                groups.append([])
                room = self.shard_bytes
            groups[-1].append(name)
            room -= nbytes
        if len(groups) == 1:
            return {f"model{_SUFFIX}": groups[0]}
        count = len(groups)
        return {
            f"model-{number:05d}-of-{count:05d}{_SUFFIX}": names
            for number, names in enumerate(groups, start=1)
        }


def choose(run: RunDir, *, step: int | None, kind: str, dtype: str, shard_bytes: int) -> Export:
    """What there is to export. Raises RunError, CorruptCheckpoint."""
    manifest = complete(run, step)
    chosen = Export(run=run, manifest=manifest, kind=kind, dtype=dtype, shard_bytes=shard_bytes)
    if not chosen.tensors:
        kinds = sorted({name.partition("/")[0] for name in manifest.tensors})
        raise RunError(
            f"--weights {kind}",
            f"step {manifest.step} of {run.name} holds no such weights",
            f"It holds: {', '.join(kinds) or 'nothing'}.",
        )
    return chosen


def export(chosen: Export, out: str, tell: Tell = lambda _: None) -> Exported:
    """Write the weights to a folder or URI. Raises RunError if it is taken, CorruptCheckpoint."""
    store, shards = Store(out), chosen.shards()
    _check_free(store)
    folder = Watched(chosen.run.checkpoint(chosen.manifest.step), tell)
    try:
        for name, parameters in shards.items():
            _write(store, name, chosen, parameters, folder)
        if len(shards) > 1:
            store.write(INDEX, _encode(_index(chosen, shards)))
        store.write(CONFIG, _encode(_config(chosen)))
    except BaseException:
        for name in (*shards, INDEX):
            store.delete(name)
        raise
    return Exported(
        uri=store.uri,
        step=chosen.manifest.step,
        kind=chosen.kind,
        dtype=chosen.dtype,
        tensors=len(chosen.tensors),
        nbytes=_total(chosen),
        files=tuple(shards),
    )


def _check_free(store: Store) -> None:
    """Raise RunError for a folder with anything but what an export left that broke off."""
    held = store.list()
    if any(name != INDEX and not name.endswith(_SUFFIX) for name in held):
        raise RunError(
            f"--out {store.uri}", "there is something already", "Name a folder that is empty."
        )
    for name in held:
        store.delete(name)


def _write(
    store: Store, name: str, chosen: Export, parameters: Sequence[str], folder: Store
) -> None:
    with store.writer(name) as stream:
        stream.write(_header(chosen, parameters))
        for parameter in parameters:
            for data in _bytes(chosen, parameter, folder):
                stream.write(data)


def _bytes(chosen: Export, parameter: str, folder: Store) -> Iterator[bytes]:
    """A tensor in the dtype that was asked for."""
    entry = chosen.tensors[parameter]
    for values in stretches(folder, f"{chosen.kind}/{parameter}", entry):
        if entry.dtype == chosen.dtype:
            yield values.tobytes()
        elif chosen.dtype == "BF16":
            yield to_bf16(to_float(values, entry.dtype)).tobytes()
        else:
            yield to_float(values, entry.dtype).tobytes()


def _header(chosen: Export, parameters: Sequence[str]) -> bytes:
    """Length and JSON, padded to 8 bytes, as safetensors has it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in parameters:
        entry = chosen.tensors[name]
        end = offset + entry.numel * _BYTES[chosen.dtype]
        entries[name] = {
            "dtype": chosen.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _index(chosen: Export, shards: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Which file has which tensor, as transformers and diffusers read it."""
    return {
        "metadata": {"total_size": _total(chosen)},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }


def _config(chosen: Export) -> dict[str, Any]:
    """What the weights belong to: `model` and `flow` are sections of the run's configuration."""
    config, manifest = chosen.run.config(), chosen.manifest
    return {
        "run": chosen.run.name,
        "step": manifest.step,
        "samples_seen": manifest.samples_seen,
        "weights": chosen.kind,
        "dtype": chosen.dtype,
        "config_digest": manifest.config_digest,
        "code_version": manifest.code_version,
        "model": config.model.model_dump(mode="json"),
        "flow": config.flow.model_dump(mode="json"),
    }


def _total(chosen: Export) -> int:
    return sum(entry.numel for entry in chosen.tensors.values()) * _BYTES[chosen.dtype]


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode()
