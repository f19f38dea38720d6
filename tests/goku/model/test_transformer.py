"""The transformer against a plain reference in float64, and packs against their samples."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from goku.config.model import ModelConfig
from goku.model import Goku
from tests.goku.model.packs import SMALL, SMALL_I2V, Sample, packed, random_model, samples
from tests.goku.model.reference import Reference

BOTH = pytest.mark.parametrize("config", [SMALL, SMALL_I2V], ids=["text", "image"])


def reference_of(model: Goku) -> Reference:
    config = model.config
    weights = {name: w.detach().clone() for name, w in model.state_dict().items()}
    return Reference(
        weights={name: w.requires_grad_() for name, w in weights.items()},
        layers=config.layers,
        heads=config.heads,
        theta=config.rope_theta,
        timestep_features=config.timestep_width,
    )


def said_plainly(reference: Reference, pack: list[Sample]) -> Tensor:
    return torch.cat(
        [reference.velocity(s.x_NP, s.t, s.text_LY, s.grid, s.reference_NP) for s in pack]
    )


def gradients(model: Goku, velocity_NP: Tensor) -> dict[str, Tensor]:
    """Of a loss that weighs every output differently, for every parameter."""
    weight_NP = torch.linspace(-1, 1, velocity_NP.numel()).double().reshape(velocity_NP.shape)
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad((weight_NP * velocity_NP).sum(), parameters)
    return dict(zip(names, grads, strict=True))


@BOTH
def test_it_is_the_published_transformer(config: ModelConfig) -> None:
    model, pack = random_model(config), samples(config)
    found, expected = packed(model, pack), said_plainly(reference_of(model), pack)
    assert found.dtype == torch.float64
    assert found.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@BOTH
def test_its_gradients_are_those_of_the_reference(config: ModelConfig) -> None:
    model, pack = random_model(config), samples(config)
    reference = reference_of(model)
    expected_NP = said_plainly(reference, pack)
    weight_NP = torch.linspace(-1, 1, expected_NP.numel()).double().reshape(expected_NP.shape)
    (weight_NP * expected_NP).sum().backward()
    for name, gradient in gradients(model, packed(model, pack)).items():
        expected = reference.weights[name].grad
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9, msg=name)


@BOTH
def test_a_pack_computes_what_its_samples_compute_alone(config: ModelConfig) -> None:
    model, pack = random_model(config), samples(config)
    together = packed(model, pack)
    alone = torch.cat([packed(model, [sample]) for sample in pack])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    of_alone = gradients(model, alone)
    for name, gradient in gradients(model, together).items():
        torch.testing.assert_close(gradient, of_alone[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_no_sample_sees_another(changed: int) -> None:
    model, pack = random_model(SMALL_I2V), samples(SMALL_I2V)
    before = packed(model, pack).split([len(s.x_NP) for s in pack])
    sample = pack[changed]
    assert sample.reference_NP is not None
    pack[changed] = replace(
        sample,
        x_NP=sample.x_NP + 1,
        t=1 - sample.t,
        text_LY=-sample.text_LY,
        reference_NP=2 * sample.reference_NP,
    )
    after = packed(model, pack).split([len(s.x_NP) for s in pack])
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        assert old.equal(new) == (index != changed)


@pytest.mark.parametrize("part", ["t", "text_LY", "reference_NP"])
def test_every_input_matters(part: str) -> None:
    model, pack = random_model(SMALL_I2V), samples(SMALL_I2V)
    before = packed(model, pack)
    pack[0] = replace(pack[0], **{part: getattr(pack[0], part) * 0.9})
    tokens = len(pack[0].x_NP)
    assert (packed(model, pack) - before)[:tokens].abs().max() > 1e-4


def test_padding_changes_no_sample_and_gets_no_say_in_gradients() -> None:
    model, pack = random_model(SMALL), samples(SMALL)
    plain, padded = packed(model, pack), packed(model, pack, multiple=16)
    tokens = len(plain)
    assert len(padded) == 32
    torch.testing.assert_close(padded[:tokens], plain, rtol=1e-10, atol=1e-10)
    of_plain = gradients(model, plain)
    for name, gradient in gradients(model, padded[:tokens]).items():
        torch.testing.assert_close(gradient, of_plain[name], rtol=1e-9, atol=1e-9, msg=name)


def test_a_pack_without_any_text_still_gives_every_weight_a_gradient() -> None:
    model, pack = random_model(SMALL), samples(SMALL, text_lengths=(0, 0, 0))
    found = gradients(model, packed(model, pack))
    assert found["blocks.0.text_attention.key.weight"].eq(0).all()
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_bf16_stays_near_float64_and_keeps_its_dtype() -> None:
    pack = samples(SMALL)
    exact = packed(random_model(SMALL), pack)
    found = packed(random_model(SMALL, torch.bfloat16), pack)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).norm() < 0.05 * exact.norm()


@BOTH
def test_a_reference_is_given_exactly_to_an_image_conditioned_model(config: ModelConfig) -> None:
    model = random_model(config)
    other = SMALL if config.image_conditioned else SMALL_I2V
    with pytest.raises(ValueError, match="reference_NP"):
        packed(model, samples(other))
