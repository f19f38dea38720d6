"""What a rank needs of its GPU's memory, and what its backward computes again to need no more.

A block remembers everything ("none"), its products and attentions ("products"), its input and its
two attentions' results ("attention"), these and its MLP's ("mlp"), the same in the host's memory
("offload"), or its input alone ("full"); every n-th block may keep something else than the others.
Attention is most of a long clip's work and little of its memory, so keeping its result is nearly
free; of the products, the MLP's last is the dearest for the memory of its result. `plan` picks the
cheapest policy that fits and says what it expects to be used.

Arithmetic alone, without torch: a launch shows the plan before there is a GPU, and training prints
the same beside what it measures.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.run import RunConfig

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


class Typical(NamedTuple):
    """The pack that a run is made fast for, and the model that computes it."""

    model: ModelConfig
    lengths: tuple[int, ...]
    text_lengths: tuple[int, ...]


def typical_of(config: RunConfig) -> Typical:
    """The run's largest samples, as many as a pack holds, and images in what they leave."""
    clip, room = config.sample_tokens, config.data.pack_tokens
    image = clip // config.data.latent_shape[0]
    clips, images = room // clip, room % clip // image
    lengths = (clip,) * clips + (image,) * images
    return Typical(config.model, lengths, (config.text.max_tokens,) * len(lengths))


def plan_for(
    config: ParallelConfig,
    typical: Typical,
    *,
    fixed_bytes: int,
    memory_bytes: int,
    host_bytes: int = 0,
) -> Plan:
    """The recomputation of a rank that holds as much of a pack like the typical one as it may."""
    asked, itemsize = asked_for(config), _itemsize(config)
    tokens = config.rank_tokens(sum(typical.lengths))
    traded = config.sequence > config.context
    policies = ladder(
        typical.model,
        tokens=tokens,
        pairs=sum(length**2 for length in typical.lengths) // config.sequence,
        host_bytes=host_bytes,
        itemsize=itemsize,
        traded=traded,
    )
    return plan(
        typical.model,
        tokens=tokens,
        text_tokens=sum(typical.text_lengths),
        fixed_bytes=fixed_bytes,
        memory_bytes=memory_bytes,
        policies=policies if asked is None else (asked,),
        itemsize=itemsize,
        traded=traded,
        eight=config.products != "bf16",
    )


def least_sequence(
    config: ParallelConfig,
    typical: Typical,
    *,
    fixed_bytes: int,
    memory_bytes: int,
    host_bytes: int = 0,
) -> int | None:
    """The least number of ranks that can share the typical pack; None if no number can."""
    world = config.world_size
    for degree in (d for d in range(1, world + 1) if world % d == 0):
        shared = config.model_copy(update={"sequence": degree})
        planned = plan_for(
            shared,
            typical,
            fixed_bytes=fixed_bytes,
            memory_bytes=memory_bytes,
            host_bytes=host_bytes,
        )
        if planned.fits:
            return degree
    return None


def asked_for(config: ParallelConfig) -> Policy | None:
    """The policy of a run that leaves none to be planned; None for `auto`."""
    if config.recompute == "auto":
        return None
    return Policy(config.recompute, config.recompute_every)


def plan(
    model: ModelConfig,
    *,
    tokens: int,
    text_tokens: int,
    fixed_bytes: int,
    memory_bytes: int,
    policies: Sequence[Policy] = LADDER,
    itemsize: int = 2,
    traded: bool = False,
    eight: bool = False,
) -> Plan:
    """The first policy whose prediction fits; the last one, marked, where none does.

    `tokens` are those a rank holds of a full pack, with all of its text; `fixed_bytes` are weights,
    gradients and optimizer state, `memory_bytes` is the GPU's memory, `itemsize` the bytes of a
    value in the forward. `traded`: ranks trade heads; `eight`: the forward's products in the MLP
    are of 8-bit floats.
    """
    limit = int(SHARE * memory_bytes)
    for policy in policies:
        predicted = fixed_bytes + activation_bytes(
            model, tokens, text_tokens, policy, itemsize, traded=traded, eight=eight
        )
        host = waiting_bytes(model, tokens, policy, itemsize, traded=traded)
        if predicted <= limit:
            return Plan(policy, predicted, limit, fits=True, host_bytes=host)
    return Plan(policy, predicted, limit, fits=False, host_bytes=host)


def ladder(
    model: ModelConfig,
    *,
    tokens: int,
    pairs: int,
    host_bytes: int,
    itemsize: int = 2,
    traded: bool = False,
) -> tuple[Policy, ...]:
    """All policies, cheapest first, for a rank with `host_bytes` of its host's memory left.

    `offload` is among them where half of those suffice. It comes before "full" where a block's
    copy hides behind its forward, and is the last resort elsewhere. With N tokens and P `pairs` of
    a query and a key, width D and MLP width H, it hides where

        bytes / 50e9 <= (2 N (6 D + 2 H) D + 4 D P) / 600e12

    The backward has twice the time and more, for as much to be copied back.
    """
    offload = Policy("offload")
    if waiting_bytes(model, tokens, offload, itemsize, traded=traded) > _HOST_SHARE * host_bytes:
        return LADDER
    products = 2 * tokens * (6 * model.width + 2 * model.mlp_width) * model.width
    computing = (products + 4 * model.width * pairs) / _COMPUTED
    copying = _block_bytes(model, tokens, itemsize, traded=traded) / _COPIED
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


def waiting_bytes(
    model: ModelConfig, tokens: int, policy: Policy, itemsize: int = 2, *, traded: bool = False
) -> int:
    """What waits in the host's memory: all that blocks of `offload` keep, but the last one's."""
    waiting = max(0, _blocks(model, policy).count("offload") - 1)
    return waiting * _block_bytes(model, tokens, itemsize, traded=traded)


def _block_bytes(model: ModelConfig, tokens: int, itemsize: int, *, traded: bool) -> int:
    """What one block of `offload` keeps."""
    values = _values("offload", model) + traded * model.width
    return tokens * (values * itemsize + 8 * model.heads)


def _blocks(model: ModelConfig, policy: Policy) -> list[Keep]:
    return [policy.of(number) for number in range(1, model.layers + 1)]


def _values(keep: Keep, model: ModelConfig, *, eight: bool = False) -> int:
    """What a token keeps in one block."""
    hidden = min(_HIDDEN[keep], 1) if eight else _HIDDEN[keep]
    return _ROWS[keep] * model.width + hidden * model.mlp_width


def state_bytes(weights: int, config: ParallelConfig) -> int:
    """Weights, gradients, master weights, both moments and the average, as the engine cuts them."""
    width, ranks = _itemsize(config), config.world_size
    sharded = 16 * weights // ranks  # master, two moments, average: fp32
    gradients = 4 * weights
    if config.engine == "fsdp2":
        gathered = width * weights if config.zero_stage == 2 else 0
        cut = (gradients + config.replicas * width * weights) // ranks
        return sharded + cut + gathered
    if config.zero_stage == 1:
        return sharded + gradients + width * weights
    if config.zero_stage == 2:
        return sharded + gradients // ranks + width * weights
    return sharded + (gradients + width * weights) // ranks


def _itemsize(config: ParallelConfig) -> int:
    """Bytes of a value in the forward."""
    return 2 if config.precision == "bf16" else 4
