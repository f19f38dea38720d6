"""Parallelism applied to a finished model: each technique in order, and why in that order."""

from torch import nn

from goku.config.memory import Typical
from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh
from goku.parallel.overlap import overlap
from goku.parallel.sequence import partners, share_tokens
from goku.parallel.tune import finish_blocks, take_kernels


def parallelize(
    model: nn.Module,
    config: ParallelConfig,
    training: TrainingConfig,
    mesh: Mesh,
    micro_batches: int,
    *,
    typical: Typical | None = None,
) -> Engine:
    """Spread a model with `.blocks` over the mesh. `micro_batches` backwards make one step.

    `model` becomes the engine's: it is moved to the mesh's device, cast and, at stage 3, cut up.
    With a `typical` pack it is also made fast for packs like it.
    """
    # 1. Kernels first: what follows wraps them.
    if typical is not None:
        take_kernels(model, config, typical, mesh)
    # 2. Sequence parallelism, while the blocks are plain modules whose parts can be replaced.
    if mesh.sequence > 1:
        share_tokens(model, partners(mesh))
        if config.overlap == "on":
            overlap(model)
    # 3. Recomputation around a block's whole forward, and compilation around both.
    if typical is not None:
        finish_blocks(model, config, typical, mesh)
    # 4. The engine last: it casts and cuts the weights, and its hooks must see the final modules.
    if config.engine == "fsdp2":  # each brings seconds of imports along
        from goku.parallel.fsdp import FsdpEngine

        return FsdpEngine(model, config, training, mesh, micro_batches)
    from goku.parallel.zero import ZeroEngine

    return ZeroEngine(model, config, training, mesh, micro_batches)
