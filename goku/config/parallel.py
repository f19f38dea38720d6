"""How the work is spread: nodes, processes, engine, sequence parallelism, precision."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from goku.config.errors import ConfigError
from goku.config.section import Section

Products = Literal["bf16", "fp8_mlp", "fp8"]

_SLACK = 1 / 8  # of a rank's tokens: samples that stay whole do not fill all ranks alike


class ParallelConfig(Section):
    """`nodes` x `processes_per_node` ranks; `sequence` of them share the tokens of one pack."""

    nodes: int = Field(1, gt=0)
    processes_per_node: int = Field(8, gt=0)  # one per GPU
    sequence: int = Field(1, gt=0)  # ranks that share a pack's tokens; use the least that fits
    # of them, how many hold the same heads and gather each other's keys; the others trade heads
    context: int = Field(1, gt=0)
    # ranks that cut up each sample of a pack: the least of those that fit and make nobody wait for
    # others longer than exchanging takes, pack by pack; or always all, the full `sequence`
    sequence_degree: Literal["least", "full"] = "least"
    # whether exchanges of heads and keys travel beside the projections; off until it was measured
    overlap: Literal["on", "off"] = "off"
    # what shards state and reduces gradients; presets of 2b and 8b take fsdp2, the faster one
    engine: Literal["deepspeed", "fsdp2"] = "deepspeed"
    # 0 is left out: with bf16 its first update is wrong. fsdp2 has no 1: it always cuts gradients
    zero_stage: Literal[1, 2, 3] = 2
    replicas: int = Field(1, gt=0)  # of the weights, under fsdp2 (HSDP); one for each node, say
    precision: Literal["bf16", "fp32"] = "bf16"  # of the forward; master weights are always fp32
    gradients: Literal["bf16", "fp32"] = "bf16"  # as ranks add them up; micro-batches add in fp32
    # of the forward's linear layers; on Hopper GPUs and later fp8, or fp8_mlp for the MLPs alone,
    # which trains as bf16 does; gradients stay in bf16
    products: Products = "bf16"
    # the kernel of self- and cross-attention; auto measures those that run at the run's own lengths
    attention: Literal["auto", "fa4", "fa3", "fa2", "sdpa", "reference"] = "auto"
    # of each block; auto: on a GPU in bf16, but not under DeepSpeed's stage 3
    compile: Literal["auto", "on", "off"] = "auto"
    # what the backward computes again: nothing, all but products and attention, all but attention
    # and the MLP's result, all but attention, or the whole block; `offload` computes as much again
    # as `mlp` and keeps the rest in the host's memory; auto takes the cheapest that fits
    recompute: Literal["auto", "none", "products", "mlp", "attention", "offload", "full"] = "auto"
    recompute_every: int = Field(1, gt=0)  # only every n-th block; auto chooses its own
    # who reads packs ahead: threads, which share the interpreter with training while its GPU waits,
    # or a process beside each rank, which takes 0.4 GB more; auto: a process where a GPU trains on
    # cached latents
    readers: Literal["auto", "threads", "process"] = "auto"

    @property
    def world_size(self) -> int:
        return self.nodes * self.processes_per_node

    @property
    def data(self) -> int:
        """Data-parallel degree: ranks that see different samples."""
        return self.world_size // self.sequence

    @property
    def degrees(self) -> tuple[int, ...]:
        """Ranks that may share a sample, rising: divisors of `sequence` that leave whole heads."""
        if self.sequence_degree == "full":
            return (self.sequence,)
        heads = self.sequence // self.context
        divisors = (d for d in range(1, self.sequence + 1) if self.sequence % d == 0)
        return tuple(d for d in divisors if heads % d == 0 or d % heads == 0)

    def rank_tokens(self, pack_tokens: int) -> int:
        """The most tokens of a pack that a rank computes, with slack where samples stay whole."""
        slack = _SLACK if self.sequence > 1 and self.sequence_degree == "least" else 0
        return math.ceil((1 + slack) * pack_tokens / self.sequence)

    @model_validator(mode="after")
    def _sequence_divides(self) -> Self:
        if self.world_size % self.sequence:
            raise ConfigError(
                f"parallel.sequence={self.sequence}",
                f"it must divide the world size {self.world_size} "
                f"({self.nodes} nodes x {self.processes_per_node} processes)",
                "Change parallel.sequence, parallel.nodes or parallel.processes_per_node.",
            )
        return self

    @model_validator(mode="after")
    def _context_divides(self) -> Self:
        if self.sequence % self.context:
            raise ConfigError(
                f"parallel.context={self.context}",
                f"it must divide parallel.sequence={self.sequence}",
                "Use the least that leaves every rank whole heads; 1 where they divide.",
            )
        return self

    @model_validator(mode="after")
    def _overlap_has_exchanges(self) -> Self:
        if self.overlap == "on" and self.sequence == 1:
            raise ConfigError(
                "parallel.overlap=on",
                "with parallel.sequence=1 ranks exchange neither heads nor keys",
                "Set parallel.sequence above 1, or leave parallel.overlap out.",
            )
        return self

    @model_validator(mode="after")
    def _products_fit_precision(self) -> Self:
        if self.products != "bf16" and self.precision != "bf16":
            raise ConfigError(
                f"parallel.products={self.products}",
                f"it needs parallel.precision=bf16, and that is {self.precision}",
                "Set parallel.precision=bf16, or leave parallel.products out.",
            )
        return self

    @model_validator(mode="after")
    def _engine_can(self) -> Self:
        if self.engine == "fsdp2" and self.zero_stage == 1:
            raise ConfigError(
                "parallel.zero_stage=1",
                "fsdp2 always cuts gradients up",
                "Set parallel.zero_stage=2, 3 to cut weights too, or parallel.engine=deepspeed.",
            )
        if self.engine == "deepspeed" and self.replicas > 1:
            raise ConfigError(
                f"parallel.replicas={self.replicas}",
                "deepspeed cuts weights over all processes",
                "Set parallel.engine=fsdp2, or parallel.replicas=1.",
            )
        if self.world_size % self.replicas:
            raise ConfigError(
                f"parallel.replicas={self.replicas}",
                f"it must divide the world size {self.world_size}",
                "Use one for each node: parallel.replicas equal to parallel.nodes.",
            )
        return self
