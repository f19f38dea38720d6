"""Sampling with tiny networks: deterministic, of the asked shape, guided as the formula says."""

import dataclasses

import numpy as np
import pytest
import torch

from goku.config import presets
from goku.config.sampling import SamplingConfig
from goku.flow.sampler import euler
from goku.flow.timesteps import Timesteps
from goku.model import init
from goku.nn.layout import Layout
from goku.nn.patch import unpatchify
from goku.sampling.pipeline import Pipeline, Request, requests
from goku.text.encoder import TextEncoder
from goku.vae.autoencoder import Autoencoder

CPU = torch.device("cpu")
REQUEST = Request(
    prompt="a cat", frames=5, height=32, width=48, steps=3, guidance=4.0, seed=1, first_frame=None
)


def pipeline(*, image_conditioned: bool = False) -> Pipeline:
    config = presets.build("stage2", store="memory://s", size="tiny")
    model = config.model.model_copy(update={"image_conditioned": image_conditioned})
    net = init.build(model, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():  # the last linear and adaLN start at zero: give the velocity a meaning
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return Pipeline(
        model=net,
        vae=Autoencoder.load(config.vae, latent_channels=model.latent_channels),
        text=TextEncoder.load(config.text, width=model.text_width),
        timesteps=Timesteps(config.flow),
        device=CPU,
    )


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return pipeline()


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_shape_and_type(plain: Pipeline, frames: int) -> None:
    pixels = plain.sample(dataclasses.replace(REQUEST, frames=frames))
    assert pixels.shape == (frames, 32, 48, 3)
    assert pixels.dtype == np.uint8


def test_the_same_request_gives_the_same_pixels(plain: Pipeline) -> None:
    assert np.array_equal(plain.sample(REQUEST), plain.sample(REQUEST))
    other = plain.sample(dataclasses.replace(REQUEST, seed=2))
    assert not np.array_equal(plain.sample(REQUEST), other)


def test_guidance_follows_its_formula(plain: Pipeline) -> None:
    """Against two forwards of one sample each: v = v0 + s (v1 - v0)."""
    layout = [Layout.build([(2, 2, 3)], [len(t)]) for t in plain.text.encode(["a cat", ""])]
    text = plain.text.encode(["a cat", ""])

    @torch.no_grad()
    def velocity(x_NP: torch.Tensor, t: float) -> torch.Tensor:
        one, zero = (
            plain.model(x_NP, torch.tensor([t]), text_LY, la)
            for text_LY, la in zip(text, layout, strict=True)
        )
        return zero + 4.0 * (one - zero)

    noise_NP = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    x_NP = euler(velocity, noise_NP, plain.timesteps.schedule(3, 12))
    z_CTHW = unpatchify(x_NP, (2, 4, 6), 2)
    x_CTHW = plain.vae.decode(z_CTHW[None])[0]
    expected = ((x_CTHW + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    assert np.abs(plain.sample(REQUEST).astype(float) - expected).max() <= 1.0


def test_the_first_frame_matters_to_an_image_to_video_model() -> None:
    conditioned = pipeline(image_conditioned=True)
    black = np.zeros((1, 32, 48, 3), np.uint8)
    first = conditioned.sample(dataclasses.replace(REQUEST, first_frame=black))
    second = conditioned.sample(dataclasses.replace(REQUEST, first_frame=black + 200))
    assert not np.array_equal(first, second)


def test_every_prompt_is_drawn_at_every_length() -> None:
    config = SamplingConfig(prompts=("a", "b"), frames=(1, 5))
    drawn = [(request.prompt, request.frames) for request in requests(config)]
    assert drawn == [("a", 1), ("a", 5), ("b", 1), ("b", 5)]
