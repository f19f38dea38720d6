"""A whole run: its name, its kind of job, its sections, and the checks that span sections.

Only the assembler (`goku.trainer.build`), the entry points and the planner read all of it.
"""

import hashlib
import json
import math
import re
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from goku.config.checkpoint import CheckpointConfig
from goku.config.curation import CurationConfig
from goku.config.data import SPATIAL_STRIDE, DataConfig
from goku.config.encoders import TextConfig, VaeConfig
from goku.config.errors import ConfigError
from goku.config.health import HealthConfig
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.sampling import SamplingConfig
from goku.config.section import Section
from goku.config.training import FlowConfig, TrainingConfig

RUN_NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")


class Job(StrEnum):
    """What a run does; each is one program under `goku.apps`."""

    CURATE = "curate"
    ENCODE = "encode"
    TRAIN = "train"
    SAMPLE = "sample"

    @property
    def spread(self) -> bool:
        """Whether parallel.nodes x processes_per_node ranks do it; the rest is one process."""
        return self in (Job.TRAIN, Job.ENCODE)


class RunConfig(Section):
    """Everything that decides what a run computes. Frozen into `run.json` at launch."""

    name: str  # also the Kubernetes job's name
    store: str  # URI of the folder or bucket that holds runs
    preset: str  # the preset it began as
    job: Job
    model: ModelConfig = Field(default_factory=ModelConfig)
    vae: VaeConfig = Field(default_factory=VaeConfig)
    text: TextConfig = Field(default_factory=TextConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    flow: FlowConfig = Field(default_factory=FlowConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    health: HealthConfig = Field(default_factory=HealthConfig)
    curation: CurationConfig = Field(default_factory=CurationConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)

    @field_validator("name")
    @classmethod
    def _name_is_a_label(cls, name: str) -> str:
        if not RUN_NAME.fullmatch(name):
            raise ConfigError(
                f"name={name!r}",
                "a run's name is 1 to 50 lower-case letters, digits and dashes, a letter first",
                "It also names the Kubernetes job: choose another with --name.",
            )
        return name

    @model_validator(mode="after")
    def _spans(self) -> Self:
        if self.job is not Job.CURATE:
            self._check_geometry()
        if self.job is Job.TRAIN:
            self._check_pack()
            self._check_batch()
            self._check_heads()
            self._check_best()
            self._check_readers()
        if self.job is not Job.CURATE and (self.job is not Job.TRAIN or self.data.latents is None):
            self._check_encoders()
        if self.job is Job.CURATE and self.data.source is None:
            raise ConfigError(
                "data.source=None",
                "curation needs footage",
                "Give a folder or URI: --set data.source=<folder or URI>.",
            )
        return self

    def _check_encoders(self) -> None:
        fix = "Give a folder or URI, or train from encoded clips (data.latents=<run>)."
        if self.vae.weights is None:
            raise ConfigError("vae.weights=None", "encoding needs the autoencoder's weights", fix)
        if self.text.kind == "flan-t5" and self.text.weights is None:
            raise ConfigError("text.weights=None", "encoding needs the FLAN-T5 weights", fix)

    def _check_geometry(self) -> None:
        unit = SPATIAL_STRIDE * self.model.patch_size
        section = "sampling" if self.job is Job.SAMPLE else "data"
        for key in ("height", "width"):
            value = getattr(getattr(self, section), key)
            if value % unit:
                near = max(unit, round(value / unit) * unit)
                raise ConfigError(
                    f"{section}.{key}={value}",
                    f"it must be a multiple of {unit}: the VAE's stride times the patch",
                    f"Use {section}.{key}={near}.",
                )

    def _check_pack(self) -> None:
        needed = self.sample_tokens
        if needed > self.data.pack_tokens:
            raise ConfigError(
                f"data.pack_tokens={self.data.pack_tokens}",
                f"the largest sample has {needed} tokens",
                f"Set data.pack_tokens={needed} or more, or shrink data.frames, height or width.",
            )

    def _check_batch(self) -> None:
        packs, ranks = self.data.packs_per_step, self.parallel.data
        if packs % ranks:
            raise ConfigError(
                f"data.packs_per_step={packs}",
                f"{ranks} data ranks ({self.parallel.world_size} processes / sequence "
                f"{self.parallel.sequence}) must divide it",
                f"Set data.packs_per_step={-(-packs // ranks) * ranks}, or change the world size.",
            )

    def _check_heads(self) -> None:
        degree, heads = self.parallel.sequence, self.model.heads
        if heads % (degree // self.parallel.context):
            context = degree // math.gcd(heads, degree)
            raise ConfigError(
                f"parallel.sequence={degree}",
                f"{heads} heads do not divide among {degree // self.parallel.context} ranks",
                f"Set parallel.context={context}, or parallel.sequence to a divisor of {heads}.",
            )

    def _check_best(self) -> None:
        if self.checkpoint.keep_best and not self.training.validation_samples:
            raise ConfigError(
                f"checkpoint.keep_best={self.checkpoint.keep_best}",
                "without validation no checkpoint is better than another",
                "Set training.validation_samples above 0, or checkpoint.keep_best=0.",
            )

    def _check_readers(self) -> None:
        if self.parallel.readers == "process" and self.data.latents is None:
            raise ConfigError(
                "parallel.readers=process",
                "with data.latents=none samples are encoded by the models of the rank itself",
                "Set parallel.readers=threads, or encode the clips first.",
            )

    @property
    def sample_tokens(self) -> int:
        """Tokens of the largest sample."""
        frames, height, width = self.data.latent_shape
        return frames * (height // self.model.patch_size) * (width // self.model.patch_size)

    @property
    def micro_batches(self) -> int:
        """Packs that each data rank computes in one step."""
        return self.data.packs_per_step // self.parallel.data

    def digest(self) -> str:
        """A short identity of all that decides the numbers: not of name, world or saves."""
        apart = {"name", "store", "parallel", "health", "checkpoint"}
        kept = self.model_dump(mode="json", exclude=apart)
        return hashlib.sha256(_canonical(kept)).hexdigest()[:16]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
