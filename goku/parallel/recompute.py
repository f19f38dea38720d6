"""What the backward computes again instead of remembering, and which such policy a run needs.

A block remembers everything ("none"), its products and attentions ("products"), its input and its
two attentions' results ("attention"), these and its MLP's ("mlp"), the same in the host's memory
("offload"), or its input alone ("full"); every n-th block may keep something else than the others.
Attention is most of a long clip's work and little of its memory, so keeping its result is nearly
free; of the products, the MLP's last is the dearest for the memory of its result. `plan` picks the
cheapest policy that fits and says what it expects to be used.
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from goku.config.model import ModelConfig
from goku.nn.attend.ops import SAVED
from goku.nn.operators import CLOSING, PRODUCTS

Keep = Literal["none", "products", "mlp", "attention", "offload", "full"]

SHARE = 0.9  # of the GPU's memory that a plan may use: the rest is fragmentation and libraries
# rows that a token keeps: of D without the MLP's, of the MLP's width; and a text token of D
_ROWS = {"none": 17, "products": 10, "mlp": 4, "attention": 3, "offload": 4, "full": 1}
_HIDDEN = {"none": 2, "products": 1, "mlp": 0, "attention": 0, "offload": 0, "full": 0}
_TEXT = {"none": 3, "products": 2, "mlp": 0, "attention": 0, "offload": 0, "full": 0}
_HERE = 2  # blocks of `offload` that are on the GPU at once: one at work, one on its way
_HOST_SHARE = 0.5  # of the host's memory that is left: checkpoints and data need some as well
_COPIED = 50e9  # bytes a second from a GPU to pinned memory, PCIe 5 x16
_COMPUTED = 600e12  # operations a second at best: docs/results/2026-11-22-one-gpu.md
_PASSING = 12  # rows of D a token: gradients and workspace while one block goes backward


class Policy(NamedTuple):
    """What is kept, in every `every`-th block, and what in the others."""

    keep: Keep
    every: int = 1
    others: Keep = "none"

    def __str__(self) -> str:
        if self.every == 1:
            return self.keep
        return f"{self.keep} in every {self.every}. block, {self.others} in the others"

    def of(self, number: int) -> Keep:
        """What the block with this number, from 1 on, keeps."""
        return self.others if number % self.every else self.keep


class Plan(NamedTuple):
    """A policy and the bytes it is expected to need at the peak, on the GPU and on its host."""

    policy: Policy
    predicted_bytes: int
    limit_bytes: int
    fits: bool
    host_bytes: int


# cheapest first
LADDER = (
    Policy("none"),
    Policy("products", 2),
    Policy("products"),
    Policy("products", 2, "mlp"),
    Policy("products", 4, "mlp"),
    Policy("products", 8, "mlp"),
    Policy("mlp"),
    Policy("attention"),
    Policy("full"),
)


def plan(
    model: ModelConfig,
    *,
    tokens: int,
    text_tokens: int,
    fixed_bytes: int,
    memory_bytes: int,
    policies: Sequence[Policy] = LADDER,
    traded: bool = False,
    eight: bool = False,
) -> Plan:
    """The first policy whose prediction fits; the last one, marked, where none does.

    `tokens` are those a rank holds of a full pack, with all of its text; `fixed_bytes` are weights,
    gradients and optimizer state, `memory_bytes` is the GPU's memory. `traded`: ranks trade heads;
    `eight`: the forward's products in the MLP are of 8-bit floats.
    """
    limit = int(SHARE * memory_bytes)
    for policy in policies:
        predicted = fixed_bytes + activation_bytes(
            model, tokens, text_tokens, policy, traded=traded, eight=eight
        )
        host = waiting_bytes(model, tokens, policy, traded=traded)
        if predicted <= limit:
            return Plan(policy, predicted, limit, fits=True, host_bytes=host)
    return Plan(policy, predicted, limit, fits=False, host_bytes=host)


def ladder(
    model: ModelConfig, *, tokens: int, pairs: int, host_bytes: int, traded: bool = False
) -> tuple[Policy, ...]:
    """All policies, cheapest first, for a rank with `host_bytes` of its host's memory left.

    `offload` is among them where half of those suffice. It comes before "full" where a block's
    copy hides behind its forward, and is the last resort elsewhere. With N tokens and P `pairs` of
    a query and a key, width D and MLP width H, it hides where

        bytes / 50e9 <= (2 N (6 D + 2 H) D + 4 D P) / 600e12

    The backward has twice the time and more, for as much to be copied back.
    """
    offload = Policy("offload")
    if waiting_bytes(model, tokens, offload, traded=traded) > _HOST_SHARE * host_bytes:
        return LADDER
    products = 2 * tokens * (6 * model.width + 2 * model.mlp_width) * model.width
    computing = (products + 4 * model.width * pairs) / _COMPUTED
    copying = _block_bytes(model, tokens, traded=traded) / _COPIED
    *cheaper, full = LADDER
    return (*cheaper, offload, full) if copying <= computing else (*LADDER, offload)


def activation_bytes(
    model: ModelConfig,
    tokens: int,
    text_tokens: int,
    policy: Policy,
    itemsize: int = 2,
    *,
    traded: bool = False,
    eight: bool = False,
) -> int:
    """What a forward remembers, and what the first block to go backward adds to it.

    Counted from the block in rows of the width D: 17 for each token besides the MLP's hidden rows
    before and after GELU, 3 for each text token; lse is two fp32 for each head. A block computed
    again adds what it did not keep, and its gradients take the place of what they use up. Where
    ranks trade heads, attention's result is kept once more: as it was before the trade. In 8 bits
    the rows after GELU are never kept. Of blocks of `offload` two count: the others wait on the
    host.
    """
    blocks = _blocks(model, policy)
    for _ in range(_HERE, blocks.count("offload")):
        blocks.remove("offload")
    kept = [_values(keep, model, eight=eight) for keep in blocks]
    everything = _values("none", model, eight=eight)
    passing = max(_PASSING * model.width, *(everything - values for values in kept))
    attended = sum(keep != "full" for keep in blocks)
    values = tokens * (sum(kept) + passing + traded * attended * model.width)
    values += text_tokens * sum(_TEXT[keep] for keep in blocks) * model.width
    return values * itemsize + 8 * model.heads * attended * tokens


def waiting_bytes(model: ModelConfig, tokens: int, policy: Policy, *, traded: bool = False) -> int:
    """What waits in the host's memory: all that blocks of `offload` keep, but the last one's."""
    waiting = max(0, _blocks(model, policy).count("offload") - 1)
    return waiting * _block_bytes(model, tokens, traded=traded)


def _block_bytes(model: ModelConfig, tokens: int, *, traded: bool, itemsize: int = 2) -> int:
    """What one block of `offload` keeps."""
    values = _values("offload", model) + traded * model.width
    return tokens * (values * itemsize + 8 * model.heads)


def _blocks(model: ModelConfig, policy: Policy) -> list[Keep]:
    return [policy.of(number) for number in range(1, model.layers + 1)]


def _values(keep: Keep, model: ModelConfig, *, eight: bool = False) -> int:
    """What a token keeps in one block."""
    hidden = min(_HIDDEN[keep], 1) if eight else _HIDDEN[keep]
    return _ROWS[keep] * model.width + hidden * model.mlp_width


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
