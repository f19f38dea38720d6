"""The run directory: what lies where under `<store>/<run>`, and what "the latest checkpoint" means.

    run.json                          frozen configuration and code version
    attempts/0001.json                the ledger, one record an attempt; .pulse: how far it is;
                                      .resume: a person allowed the next
    fence                             the attempt that may commit
    checkpoints/step-00000020/        payload files, then manifest.json: that write is the commit
    LATEST                            attempt, step and manifest digest: a hint for people and tools
    metrics/ logs/ samples/           per attempt
    clips/ latents/                   what curate and encode runs make

The latest checkpoint is never the highest folder: it is the newest step whose manifest exists,
parses, and lists files that are there with the right size.

Whatever two attempts may both write (run.json, fence, manifests, LATEST) is changed by
compare-and-swap and only ever moves to the newer attempt, however late an older one wakes up.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import suppress

from goku.config.errors import ConfigError
from goku.config.run import RunConfig
from goku.contract import manifest as manifests
from goku.contract.manifest import CorruptCheckpoint, Manifest
from goku.contract.store import Store, StoreError

CLIPS, LATENTS, SAMPLES, METRICS, LOGS = "clips", "latents", "samples", "metrics", "logs"
_RUN, _LATEST, _FENCE = "run.json", "LATEST", "fence"


class Fenced(RuntimeError):
    """A newer attempt of this run has begun: this one may not commit any more."""


class Unsaved(RuntimeError):
    """Asked to stop, and the state since the last checkpoint could not be saved. Says why."""


def locate(store: str, reference: str) -> str:
    """The URI of a run, given by its name in `store` or by a URI or path of its own."""
    named = "://" not in reference and "/" not in reference
    return f"{store.rstrip('/')}/{reference}" if named else reference


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
        record = json.loads(old)
        if RunConfig.build(record["config"]).digest() != config.digest():
            raise ConfigError(
                f"run {self.name!r}", "a run that exists keeps what it computes", "Launch another."
            )
        record["config"] = config.model_dump(mode="json")
        return json.dumps(record, indent=2).encode()

    def config(self) -> RunConfig:
        """The frozen configuration. Raises FileNotFoundError if there is no such run."""
        return RunConfig.build(json.loads(self.store.read(_RUN))["config"])

    def exists(self) -> bool:
        return self.store.exists(_RUN)

    # --- checkpoints

    def checkpoint(self, step: int) -> Store:
        """The folder of one step's checkpoint."""
        return self.store.child(f"checkpoints/step-{step:08d}")

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, complete or not, ascending."""
        names = self.store.list("checkpoints")
        return sorted(
            int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit()
        )

    def manifest(self, step: int) -> Manifest:
        """A step's manifest. Raises FileNotFoundError, CorruptCheckpoint."""
        data = self.checkpoint(step).read(manifests.NAME)
        return Manifest.decode(data, name=f"step {step}/{manifests.NAME}")

    def complete(self) -> Iterator[Manifest]:
        """Complete checkpoints, newest first."""
        for step in reversed(self.steps()):
            try:
                manifest = self.manifest(step)
            except (FileNotFoundError, CorruptCheckpoint):
                continue
            if not any(manifests.missing_files(self.checkpoint(step), manifest)):
                yield manifest

    def latest(self) -> Manifest | None:
        """The newest complete checkpoint."""
        return next(self.complete(), None)

    def commit(self, manifest: Manifest) -> None:
        """Make a checkpoint exist: check the fence, write the manifest, point LATEST at it.

        It takes the place of an earlier attempt's manifest of the same step, which this attempt
        can only have passed over as broken. Raises Fenced if a newer attempt has begun.
        """
        self.check_fence(manifest.attempt)
        data = manifest.encode()
        self.checkpoint(manifest.step).change(
            manifests.NAME, lambda old: self._committed(old, manifest.attempt, data)
        )
        # The checkpoint exists by now: a hint that cannot be written must not undo that.
        with suppress(OSError, StoreError):
            self.store.change(_LATEST, lambda old: _pointed(old, manifest, data))

    def _committed(self, old: bytes | None, attempt: int, data: bytes) -> bytes:
        """The manifest to write: a newer attempt's stays, even if it came after the fence."""
        try:
            holder = Manifest.decode(old).attempt if old else attempt
        except CorruptCheckpoint:
            holder = attempt
        if holder > attempt:
            raise self._fenced(attempt, holder)
        return data

    def retain(self, keep: int) -> list[int]:
        """Delete all but the `keep` newest complete checkpoints, and older half-written ones.

        The manifest goes first, so that a crash leaves no lie. Returns the steps deleted.
        """
        kept = [manifest.step for _, manifest in zip(range(keep), self.complete(), strict=False)]
        doomed = [s for s in self.steps() if kept and s < kept[0] and s not in kept]
        for step in doomed:
            self.checkpoint(step).delete(manifests.NAME)
            self.store.delete(f"checkpoints/step-{step:08d}")
        return doomed

    # --- fence

    def raise_fence(self, attempt: int) -> None:
        """From now on no attempt before `attempt` may commit. A fence is never lowered."""
        self.store.change(
            _FENCE, lambda old: None if old and int(old) >= attempt else str(attempt).encode()
        )

    def check_fence(self, attempt: int) -> None:
        """Raise Fenced unless `attempt` is the one that may commit."""
        try:
            holder = int(self.store.read(_FENCE))
        except FileNotFoundError:
            return
        if holder != attempt:
            raise self._fenced(attempt, holder)

    def _fenced(self, attempt: int, holder: int) -> Fenced:
        return Fenced(f"attempt {attempt} of {self.name}: attempt {holder} has taken over")


def _pointed(old: bytes | None, manifest: Manifest, data: bytes) -> bytes | None:
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
