"""The run directory: what lies where under `<store>/<run>`, and what "the latest checkpoint" means.

    run.json                          frozen configuration and code version
    attempts/0001.json                the ledger, one record an attempt; .pulse: how far it is;
                                      .resume: a person allowed the next
    fence                             the attempt that may commit
    promoted                          a person's word that the run goes on from an older step
    checkpoints/step-00000020/        payload files, then manifest.json: that write is the commit
    pins/step-00000020/<who>          who needs that checkpoint: it is not deleted
    LATEST                            attempt, step and manifest digest: a hint for people and tools
    metrics/attempt-0001.jsonl        a row for each step; further ones in attempt-0001-0002.jsonl
    metrics/attempt-0001-samples.json what it read: how many samples, and their digest
    logs/ samples/                    per attempt; of samples, samples.json says which are drawn
    clips/ latents/                   what curate and encode runs make

The latest checkpoint is never the highest folder: it is the newest step whose manifest exists,
parses, and lists files that are there with the right size.

Whatever two attempts may both write (run.json, fence, manifests, LATEST) is changed by
compare-and-swap and only ever moves to the newer attempt, however late an older one wakes up.
"""

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import count, takewhile
from typing import Any, cast

from goku.config.errors import ConfigError
from goku.config.run import RunConfig
from goku.contract import manifest as manifests
from goku.contract import promoted
from goku.contract.manifest import CorruptCheckpoint, Head, Manifest
from goku.contract.retention import Retention
from goku.contract.store import Store, StoreError

CLIPS, LATENTS, SAMPLES, METRICS, LOGS = "clips", "latents", "samples", "metrics", "logs"
_RUN, _LATEST, _FENCE = "run.json", "LATEST", "fence"
_STALE_SECONDS = 3600.0  # a small file takes a second
_CHECKPOINTS, _PINS, _VERIFIED = "checkpoints", "pins", "verified"


class Fenced(RuntimeError):
    """A newer attempt of this run has begun: this one may not commit any more."""


class Unsaved(RuntimeError):
    """Asked to stop, and the state since the last checkpoint could not be saved. Says why."""


def locate(store: str, reference: str) -> str:
    """The URI of a run, given by its name in `store` or by a URI or path of its own."""
    named = "://" not in reference and "/" not in reference
    return f"{store.rstrip('/')}/{reference}" if named else reference


def rows_file(attempt: int, part: int) -> str:
    """The part, from 1 on, of an attempt's rows of metrics."""
    more = f"-{part:04d}" if part > 1 else ""
    return f"{METRICS}/attempt-{attempt:04d}{more}.jsonl"


def rows_files(store: Store, attempt: int) -> list[str]:
    """The parts that are there, in the order of their steps."""
    there = {f"{METRICS}/{name}" for name in store.list(METRICS)}
    return list(takewhile(there.__contains__, (rows_file(attempt, part) for part in count(1))))


def samples_file(attempt: int) -> str:
    """How many samples an attempt trains on, and a digest of them in their order."""
    return f"{METRICS}/attempt-{attempt:04d}-samples.json"


class RunDir:
    """One run's folder in the store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.store = Store(uri)

    @property
    def name(self) -> str:
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    # --- configuration

    def freeze(self, config: RunConfig, code_version: str) -> bool:
        """Write run.json once; True if this call wrote it.

        Raises ConfigError if the run exists with a configuration that computes something else.
        """
        record = {
            "config": config.model_dump(mode="json"),
            "digest": config.digest(),
            "code_version": code_version,
            "created_at": time.time(),
        }
        if self.store.create(_RUN, json.dumps(record, indent=2).encode()):
            return True
        if self.config().digest() != config.digest():
            raise ConfigError(
                f"run {self.name!r}",
                f"it exists in {self.uri} with another configuration",
                "Launch under another --name, or resume it unchanged.",
            )
        return False

    def reshape(self, config: RunConfig) -> None:
        """Replace the configuration by one that computes the same, on another world.

        Raises ConfigError if it computes something else, FileNotFoundError without a run.
        """
        self.store.change(_RUN, lambda old: self._reshaped(old, config))

    def _reshaped(self, old: bytes | None, config: RunConfig) -> bytes:
        if old is None:
            raise FileNotFoundError(f"{self.uri}: there is no such run")
        record = self._frozen(old)
        if RunConfig.build(record["config"]).digest() != config.digest():
            raise ConfigError(
                f"run {self.name!r}", "a run that exists keeps what it computes", "Launch another."
            )
        record["config"] = config.model_dump(mode="json")
        return json.dumps(record, indent=2).encode()

    def config(self) -> RunConfig:
        """The frozen configuration. Raises FileNotFoundError without a run, ConfigError."""
        return RunConfig.build(self._frozen(self.store.read(_RUN))["config"])

    def exists(self) -> bool:
        return self.store.exists(_RUN)

    def identity(self) -> str:
        """Tells this run from another that had its place before. Raises as `config` does."""
        created_at = self._frozen(self.store.read(_RUN))["created_at"]
        return hashlib.sha256(f"{self.uri} {created_at}".encode()).hexdigest()[:12]

    def _frozen(self, data: bytes) -> dict[str, Any]:
        try:
            record = json.loads(data)
            if {"config", "created_at"} <= record.keys():
                return cast(dict[str, Any], record)
        except (ValueError, AttributeError):
            pass
        raise ConfigError(
            f"{self.uri}/{_RUN}", "its bytes have changed", "Put it back as it was, from a copy."
        )

    # --- checkpoints

    def checkpoint(self, step: int) -> Store:
        """The folder of one step's checkpoint."""
        return self.store.child(f"{_CHECKPOINTS}/{_folder(step)}")

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, complete or not, ascending."""
        return _steps(self.store, _CHECKPOINTS)

    def manifest(self, step: int) -> Manifest:
        """A step's manifest. Raises FileNotFoundError, CorruptCheckpoint."""
        data = self.checkpoint(step).read(manifests.NAME)
        return Manifest.decode(data, name=f"step {step}/{manifests.NAME}")

    def head(self, step: int) -> Head:
        """A step's manifest without its tensors. Raises as `manifest` does."""
        data = self.checkpoint(step).read(manifests.NAME)
        return Head.decode(data, name=f"step {step}/{manifests.NAME}")

    def complete(self, among: Iterable[int] | None = None) -> Iterator[Head]:
        """Complete checkpoints, newest first, but for those that a promotion has set aside."""
        steps, aside = self.steps() if among is None else sorted(among), promoted.read(self.store)
        found = (manifest for manifest in map(self.whole, reversed(steps)) if manifest)
        return (manifest for manifest in found if not (aside and aside.voids(manifest)))

    def whole(self, step: int) -> Head | None:
        """The head of a step if its checkpoint is complete."""
        try:
            manifest = self.head(step)
        except (FileNotFoundError, CorruptCheckpoint):
            return None
        return manifest if self._has_files(manifest) else None

    def _has_files(self, manifest: Head) -> bool:
        return not any(manifests.missing_files(self.checkpoint(manifest.step), manifest))

    def newest(self) -> Head | None:
        """The head of the newest complete checkpoint."""
        return next(self.complete(), None)

    def latest(self) -> Manifest | None:
        """The newest complete checkpoint."""
        encoded = self.latest_encoded()
        return Manifest.decode(encoded) if encoded else None

    def latest_encoded(self) -> bytes | None:
        """The manifest of the newest complete checkpoint, as `Manifest.decode` takes it."""
        newest = self.newest()
        return self.checkpoint(newest.step).read(manifests.NAME) if newest else None

    def commit(self, manifest: Manifest) -> None:
        """Make a checkpoint exist. Raises as `commit_encoded` does."""
        self.commit_encoded(manifest.encode())

    def commit_encoded(self, data: bytes) -> Head:
        """Commit a manifest's bytes: check the fence, write the manifest, point LATEST at it.

        It takes the place of an earlier attempt's manifest of the same step, which this attempt
        can only have passed over as broken. Raises Fenced if a newer attempt has begun.
        """
        manifest = Head.decode(data)
        self.check_fence(manifest.attempt)
        self.checkpoint(manifest.step).change(
            manifests.NAME, lambda old: self._committed(old, manifest.attempt, data)
        )
        # The checkpoint exists by now: a hint that cannot be written must not undo that.
        with suppress(OSError, StoreError):
            self.store.change(_LATEST, lambda old: _pointed(old, manifest, data))
        return manifest

    def _committed(self, old: bytes | None, attempt: int, data: bytes) -> bytes:
        """The manifest to write: a newer attempt's stays, even if it came after the fence."""
        try:
            holder = Head.decode(old).attempt if old else attempt
        except CorruptCheckpoint:
            holder = attempt
        if holder > attempt:
            raise self._fenced(attempt, holder)
        return data

    # --- what is kept

    def retain(self, retention: Retention, *, in_use: Collection[int] = ()) -> list[int]:
        """Delete what `doomed` names and returns, and strange files beside the newest payload.

        Call it after a commit: what a crashed save left behind goes with it.
        """
        newest = self.newest()
        if newest is None:
            return []
        doomed = self._doomed(newest, retention, in_use)
        for step in doomed:
            self.remove(step)
        folder, known = self.checkpoint(newest.step), {*newest.files, manifests.NAME, _VERIFIED}
        for name in set(folder.sizes()) - known:
            folder.delete(name)
        folder.sweep(older_seconds=0)  # who wrote the newest has ended
        self.store.sweep(older_seconds=_STALE_SECONDS)
        return doomed

    def doomed(self, retention: Retention, *, in_use: Collection[int] = ()) -> list[int]:
        """Steps before the newest complete one that nothing wants kept, complete or not.

        Never the newest complete one, one in use or pinned, or the only one that was verified.
        """
        newest = self.newest()
        return [] if newest is None else self._doomed(newest, retention, in_use)

    def _doomed(self, newest: Head, retention: Retention, in_use: Collection[int]) -> list[int]:
        older = [step for step in self.steps() if step < newest.step]
        rest = older[: -max(1, retention.last)]
        # Kept whatever they hold: their manifests, maybe a hundred, need not be read.
        kept = {step for step in rest if retention.milestone(step) and self._committed_at(step)}
        others = self.complete(step for step in older if step not in kept)
        kept |= {*in_use, *self.pins(), *retention.kept([newest, *others])}
        doomed = [step for step in older if step not in kept]
        if not doomed or any(self.verified(step) for step in kept):
            return doomed
        spared = next((step for step in reversed(doomed) if self.verified(step)), None)
        return [step for step in doomed if step != spared]

    def _committed_at(self, step: int) -> bool:
        return self.checkpoint(step).size(manifests.NAME) is not None

    def remove(self, step: int) -> None:
        """Delete a checkpoint. The manifest goes first, so that a crash leaves no lie."""
        self.checkpoint(step).delete(manifests.NAME)
        self.store.delete(f"{_CHECKPOINTS}/{_folder(step)}")

    def pin(self, step: int, by: str) -> None:
        """Keep a checkpoint until `by` unpins it: another run began with it, a person wants it."""
        self.store.write(f"{_PINS}/{_folder(step)}/{by}", b"")

    def unpin(self, step: int, by: str) -> None:
        self.store.delete(f"{_PINS}/{_folder(step)}/{by}")

    def pins(self) -> dict[int, tuple[str, ...]]:
        """Who keeps which step."""
        steps = _steps(self.store, _PINS)
        found = {step: self.store.list(f"{_PINS}/{_folder(step)}") for step in steps}
        return {step: tuple(names) for step, names in found.items() if names}

    def note_verified(self, manifest: Manifest) -> None:
        """Every byte of this checkpoint has been read and compared."""
        digest = hashlib.sha256(manifest.encode()).hexdigest()
        self.checkpoint(manifest.step).write(_VERIFIED, digest.encode())

    def verified(self, step: int) -> bool:
        """Whether that was noted of this checkpoint at any time."""
        return self.checkpoint(step).size(_VERIFIED) is not None

    # --- fence

    def raise_fence(self, attempt: int) -> None:
        """From now on no attempt before `attempt` may commit. A fence is never lowered."""
        self.store.change(
            _FENCE,
            lambda old: None if old and self._holder(old) >= attempt else str(attempt).encode(),
        )

    def check_fence(self, attempt: int) -> None:
        """Raise Fenced unless `attempt` is the one that may commit."""
        try:
            holder = self._holder(self.store.read(_FENCE))
        except FileNotFoundError:
            return
        if holder != attempt:
            raise self._fenced(attempt, holder)

    def _holder(self, fence: bytes) -> int:
        try:
            return int(fence)
        except ValueError:
            raise ConfigError(
                f"{self.uri}/{_FENCE}",
                "its bytes have changed",
                "Delete it while nothing of the run lives: the next attempt writes it anew.",
            ) from None

    def _fenced(self, attempt: int, holder: int) -> Fenced:
        return Fenced(f"attempt {attempt} of {self.name}: attempt {holder} has taken over")


class NodeDir(RunDir):
    """A run's checkpoints on this node's own disk, where only its own ranks' files are.

    The manifest is whole, so that other nodes' files are in it and not here. It was written last,
    here as well: what this node had to write is there.
    """

    def _has_files(self, manifest: Head) -> bool:
        sizes = self.checkpoint(manifest.step).sizes()
        here = {name: entry for name, entry in manifest.files.items() if name in sizes}
        return bool(here) and all(sizes[name] == entry.nbytes for name, entry in here.items())


def _folder(step: int) -> str:
    return f"step-{step:08d}"


def _steps(store: Store, folder: str) -> list[int]:
    """The steps that have a folder below this one, ascending."""
    names = (name.removeprefix("step-") for name in store.list(folder) if name.startswith("step-"))
    return sorted(int(name) for name in names if name.isdigit())


def _pointed(old: bytes | None, manifest: Head, data: bytes) -> bytes | None:
    """LATEST after a commit, or None to leave it: it never goes back to an older attempt."""
    try:
        held = json.loads(old or b"{}")
        newer = (held.get("attempt", 0), held.get("step", 0)) > (manifest.attempt, manifest.step)
    except (ValueError, AttributeError, TypeError):  # it is a hint, and nothing depends on it
        newer = False
    if newer:
        return None
    return json.dumps(
        {
            "attempt": manifest.attempt,
            "step": manifest.step,
            "manifest_sha256": hashlib.sha256(data).hexdigest(),
        }
    ).encode()
