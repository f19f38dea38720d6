"""Where a sampler's transformer comes from: a training run's checkpoint, or an export of one.

An export is what `goku-platform ckpt export` writes: config.json, and safetensors of whole weights.
"""

import hashlib
from typing import NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from goku.checkpoint.load import Checkpoint, weights
from goku.config.errors import ConfigError
from goku.config.model import ModelConfig
from goku.config.run import RunConfig
from goku.config.training import FlowConfig
from goku.contract.manifest import Manifest
from goku.contract.rundir import RunDir, locate
from goku.contract.store import Store
from goku.contract.weights import CONFIG, find

_KEY = "sampling.weights_from"


class Origin(NamedTuple):
    """Trained weights by parameter name, on the CPU, and what they were trained as."""

    name: str
    model: ModelConfig
    flow: FlowConfig
    weights: dict[str, Tensor]
    digest: str  # tells this checkpoint or export from any other


def origin(config: RunConfig) -> Origin:
    """What `sampling.weights_from` names.

    Raises ConfigError if there is nothing of the kind, CorruptCheckpoint if it has changed.
    """
    uri = locate(config.store, config.sampling.weights_from or "")
    return _exported(uri) if Store(uri).exists(CONFIG) else _trained(RunDir(uri), config)


def _exported(uri: str) -> Origin:
    found = find(uri, key=_KEY)
    record, loaded = found.config(), dict[str, Tensor]()
    if not {"run", "model", "flow"} <= record.keys():
        raise ConfigError(
            f"{_KEY}={uri}",
            f"its {CONFIG} is not one that an export writes",
            "Export a checkpoint: goku-platform ckpt export RUN --out FOLDER.",
        )
    for path in sorted(found.folder.glob("*.safetensors")):
        loaded |= load_file(path)
    model, flow = ModelConfig.build(record["model"]), FlowConfig.build(record["flow"])
    digest = hashlib.sha256((found.folder / CONFIG).read_bytes()).hexdigest()
    return Origin(record["run"], model, flow, loaded, digest)


def _trained(run: RunDir, config: RunConfig) -> Origin:
    trained, manifest = run.config(), _manifest(run, config)
    kind = "ema" if config.sampling.ema else "model"
    loaded = weights(Checkpoint(run.checkpoint(manifest.step), manifest), kind=kind)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    return Origin(trained.name, trained.model, trained.flow, loaded, digest)


def _manifest(run: RunDir, config: RunConfig) -> Manifest:
    step = config.sampling.step
    found = run.latest() if step is None else run.manifest(step)
    if found is None:
        raise ConfigError(
            f"{_KEY}={config.sampling.weights_from}",
            f"{run.uri} has no complete checkpoint",
            "Train it first, or name another run.",
        )
    return found
