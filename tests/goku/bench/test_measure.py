"""What a measured step is expected to need."""

from goku.bench.measure import expected_bytes
from goku.bench.shapes import PACKS
from goku.config.memory import Policy, activation_bytes
from goku.config.model import ModelConfig


def test_gradients_count_where_they_take_no_activations_place() -> None:
    model, pack, weights = ModelConfig(), PACKS["video-90112"], 2_000_000_000

    def beside_activations(policy: Policy) -> int:
        activations = activation_bytes(model, pack.tokens, pack.text, policy)
        return expected_bytes(model, pack, policy, weights) - activations

    assert beside_activations(Policy("mlp")) == 2 * weights
    assert beside_activations(Policy("offload")) == 4 * weights
    assert beside_activations(Policy("offload", 2)) == 2 * weights
