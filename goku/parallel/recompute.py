"""What a block keeps for its backward, and how it computes the rest again.

`goku.config.memory` says what each policy keeps and which one a run needs. Here it is done to
blocks, by torch's checkpoint with a choice of operators whose results stay.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from goku.config.memory import Policy
from goku.nn.attend.ops import SAVED
from goku.nn.operators import CLOSING, PRODUCTS


def recompute(blocks: Sequence[nn.Module], policy: Policy) -> None:
    """Let every block compute again what the policy does not keep of it, wherever it keeps it."""
    forwards = {
        "products": _keeping_products,
        "mlp": _keeping_mlp,
        "attention": _keeping_attention,
        "offload": _keeping_mlp,
        "full": _keeping_input,
    }
    for number, block in enumerate(blocks, start=1):
        keep = policy.of(number)
        if keep != "none":
            block.forward = MethodType(forwards[keep], block)
        if keep == "products":
            block.get_submodule("mlp").keeps_hidden = False  # type: ignore[assignment]  # no module


def _keeping_input(block: nn.Module, x_ND: Tensor, *others: Any) -> Tensor:
    return checkpointed(block, x_ND, others, None)


def _keeping_attention(block: nn.Module, x_ND: Tensor, *others: Any) -> Tensor:
    contexts = partial(create_selective_checkpoint_contexts, _attention_only)
    return checkpointed(block, x_ND, others, contexts)


def _keeping_mlp(block: nn.Module, x_ND: Tensor, *others: Any) -> Tensor:
    contexts = partial(create_selective_checkpoint_contexts, _mlp_too)
    return checkpointed(block, x_ND, others, contexts)


def _keeping_products(block: nn.Module, x_ND: Tensor, *others: Any) -> Tensor:
    contexts = partial(create_selective_checkpoint_contexts, _products_too)
    return checkpointed(block, x_ND, others, contexts)


def checkpointed(
    block: nn.Module,
    x_ND: Tensor,
    others: tuple[Any, ...],
    contexts: Callable[[], Any] | None,
) -> Tensor:
    """The block's forward that keeps its input x_ND and what `contexts` of torch's keep."""
    forward = type(block).forward

    def run(x_ND: Tensor) -> Tensor:  # the layout is no tensor: it comes by closure
        out_ND: Tensor = forward(block, x_ND, *others)
        return out_ND

    more: dict[str, Any] = {} if contexts is None else {"context_fn": contexts}
    # a block draws no random numbers, so there is no generator state to keep
    out_ND: Tensor = checkpoint(run, x_ND, use_reentrant=False, preserve_rng_state=False, **more)
    return out_ND


def saves_mlp(operator: Any) -> bool:
    """Whether `mlp` keeps the results of this operator."""
    return operator in SAVED or operator in CLOSING


def _attention_only(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return _saved(operator in SAVED)


def _mlp_too(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return _saved(saves_mlp(operator))


def _products_too(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return _saved(operator in SAVED or operator in PRODUCTS)


def _saved(yes: bool) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if yes else CheckpointPolicy.PREFER_RECOMPUTE
