"""A model made fast for one kind of pack on this device: kernels, recomputation, compiled blocks.

What was picked, and why, is said on rank 0. On a CPU nothing changes: the model stays eager and
runs the same operations in the same order, which tests of exact resumption rest on.
"""

from typing import Any

import torch
from torch import nn

from goku.config import ConfigError
from goku.config.memory import (
    Plan,
    Policy,
    Typical,
    asked_for,
    least_sequence,
    plan_for,
    state_bytes,
)
from goku.config.parallel import ParallelConfig
from goku.nn.attend.choose import Choice, KernelMissing, Shape, choose, load
from goku.nn.rowwise import use
from goku.parallel.compile import compile_blocks
from goku.parallel.host import room
from goku.parallel.lane import Lane
from goku.parallel.mesh import Mesh
from goku.parallel.offload import offload
from goku.parallel.recompute import recompute


def take_kernels(model: nn.Module, config: ParallelConfig, typical: Typical, mesh: Mesh) -> None:
    """Put this device's kernels into the blocks, before anything wraps their parts.

    Raises ConfigError when the attention kernel or the products asked for cannot run here.
    """
    if config.products != "bf16":
        _require_eight(config.products, mesh.device)
    if mesh.device.type == "cuda":
        from goku.nn.fused import Fused  # Triton is there only beside a GPU build of torch

        use(model, Fused(config.products))
    for part, shape in _shapes(config, typical).items():
        choice = _agreed(config.attention, shape, mesh)
        if mesh.rank == 0 and mesh.device.type == "cuda":
            _tell(part, config.attention, choice)
        for block in _blocks(model):
            attention: Any = block.get_submodule(part)
            attention.attend = choice.attend


def _require_eight(products: str, device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        return
    raise ConfigError(
        f"parallel.products={products}",
        "products of 8-bit floats need a GPU of compute capability 9.0 (Hopper) or later",
        "Set parallel.products=bf16.",
    )


def finish_blocks(
    model: nn.Module, config: ParallelConfig, typical: Typical, mesh: Mesh
) -> Plan | None:
    """Recomputation, then compilation, of blocks whose parts are final. The plan, on a GPU.

    What waits on the host comes last: it sees what a compiled block remembers. Raises ConfigError
    where the host has no room for that.
    """
    blocks, on_gpu = _blocks(model), mesh.device.type == "cuda"
    planned = _plan(model, config, typical, mesh) if on_gpu else None
    policy = planned.policy if planned else asked_for(config) or Policy("none")
    recompute(blocks, policy)
    compiled = compiles(config, on_gpu=on_gpu)
    if compiled:
        compile_blocks(blocks, in_order=config.overlap == "on")
    if "offload" in (policy.keep, policy.others):
        lane = Lane(mesh.device, planned.host_bytes if planned else 0)
        offload(blocks, policy, lane, compiled=compiled)
    return planned


def compiles(config: ParallelConfig, *, on_gpu: bool) -> bool:
    """Whether blocks are compiled.

    `auto` does so where the fused kernels and an attention operator leave whole blocks in one
    graph; DeepSpeed's stage 3, whose hooks gather weights inside of a block, would cut it. Raises
    ConfigError for "on" without a GPU: compiled plain modulation gave wrong gradients (torch 2.11).
    """
    if config.compile == "on" and not on_gpu:
        raise ConfigError(
            "parallel.compile=on",
            "blocks are compiled on a GPU only",
            "Set parallel.compile=auto: it compiles where that helps.",
        )
    whole = config.precision == "bf16" and config.attention != "reference"
    cut = config.engine == "deepspeed" and config.zero_stage == 3
    helps = on_gpu and whole and not cut
    return config.compile == "on" or (config.compile == "auto" and helps)


def _blocks(model: nn.Module) -> list[nn.Module]:
    return list(model.get_submodule("blocks").children())


def _shapes(config: ParallelConfig, typical: Typical) -> dict[str, Shape]:
    """What self- and cross-attention are asked for: heads are shared out in one, tokens in both."""
    heads, width = typical.model.heads, typical.model.head_width
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    lengths, text = typical.lengths, typical.text_lengths
    held = tuple(-(-n // config.sequence) for n in lengths)
    met = tuple(-(-n // config.context) for n in lengths)
    return {
        "attention": Shape(heads * config.context // config.sequence, width, dtype, met, lengths),
        "text_attention": Shape(heads, width, dtype, held, text),
    }


def _agreed(wanted: str, shape: Shape, mesh: Mesh) -> Choice:
    """Rank 0's choice on every rank: ranks of one step must not compute by different kernels."""
    if mesh.device.type != "cuda" or mesh.world_size == 1:
        return _chosen(wanted, shape, mesh.device)
    choice = _chosen(wanted, shape, mesh.device) if mesh.rank == 0 else None
    name = mesh.broadcast(choice.name if choice else None)
    return choice or Choice(name, load(name), {}, {})


def _chosen(wanted: str, shape: Shape, device: torch.device) -> Choice:
    try:
        return choose(wanted, shape, device)
    except KernelMissing as error:
        raise ConfigError(
            f"parallel.attention={wanted}",
            f"no attention kernel runs here ({error})",
            "Install it, or set parallel.attention=auto.",
        ) from error


def _tell(part: str, wanted: str, choice: Choice) -> None:
    print(f"{part.replace('_', ' ')}: {choice}", flush=True)
    if wanted == "auto" and "fa4" in choice.missing:
        print("warning: flash-attn-4 is not there; attention of long clips is slower", flush=True)


def _plan(model: nn.Module, config: ParallelConfig, typical: Typical, mesh: Mesh) -> Plan:
    """The policy asked for or the cheapest that fits, with what it is expected to need.

    It fits where least memory is: ranks that compute exchanges again have to do so alike.
    """
    memory = mesh.least(torch.cuda.get_device_properties(mesh.device).total_memory)
    host = mesh.least(room().left // config.processes_per_node)
    fixed = state_bytes(sum(weight.numel() for weight in model.parameters()), config)
    planned = plan_for(config, typical, fixed_bytes=fixed, memory_bytes=memory, host_bytes=host)
    require_host(planned, host)
    if mesh.rank == 0:
        least = least_sequence(
            config, typical, fixed_bytes=fixed, memory_bytes=memory, host_bytes=host
        )
        _tell_plan(planned, config, least)
    return planned


def require_host(planned: Plan, host_bytes: int) -> None:
    """Raise ConfigError where a rank has fewer bytes of its host's memory than are planned."""
    if planned.host_bytes > host_bytes:
        raise ConfigError(
            f"parallel.recompute={planned.policy.keep}",
            f"{_gib(planned.host_bytes)} of each rank's activations would wait in the host's "
            f"memory, and {_gib(host_bytes)} are left there for each",
            "Give the node or pod more memory, raise parallel.sequence, or set "
            "parallel.recompute=auto.",
        )


def _tell_plan(planned: Plan, config: ParallelConfig, least: int | None) -> None:
    waiting = f" and {_gib(planned.host_bytes)} of the host's memory" if planned.host_bytes else ""
    expected = f"{_gib(planned.predicted_bytes)} expected at the peak{waiting}"
    print(f"recompute: {planned.policy}; {expected}", flush=True)
    if not planned.fits:
        enough = f"parallel.sequence={least} is enough" if least else "cut weights as well"
        limit = planned.limit_bytes / 2**30
        print(
            f"warning: that is more than the {limit:.0f} GiB a plan may use: {enough}; or "
            "lower data.pack_tokens",
            flush=True,
        )
    elif least is not None and least < config.sequence:
        print(f"parallel.sequence={least} fits too, and exchanges less", flush=True)


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB"
