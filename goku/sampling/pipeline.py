"""Text to image, text to video and image to video by one trained transformer.

Guidance needs the velocity with and without the prompt: both are segments of one pack, so that a
step of the ODE is one forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goku.config.data import SPATIAL_STRIDE, TEMPORAL_STRIDE
from goku.config.sampling import SamplingConfig
from goku.flow.sampler import euler, guide
from goku.flow.timesteps import Timesteps
from goku.model.transformer import Goku
from goku.nn.layout import Layout
from goku.nn.patch import patchify, unpatchify
from goku.text.encoder import TextEncoder
from goku.vae.autoencoder import Autoencoder

Pixels = NDArray[np.uint8]  # [T, H, W, 3]


@dataclass(frozen=True)
class Request:
    """One sample: `frames` = 1 is an image. Sizes in pixels; `first_frame` [1, H, W, 3] for I2V."""

    prompt: str
    frames: int
    height: int
    width: int
    steps: int
    guidance: float
    seed: int
    first_frame: Pixels | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, height and width (T, H, W)."""
        frames = (self.frames - 1) // TEMPORAL_STRIDE + 1
        return frames, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE


def requests(config: SamplingConfig, first_frame: Pixels | None = None) -> Iterator[Request]:
    """Every prompt at every length; `first_frame` [1, H, W, 3] for image to video."""
    for prompt in config.prompts:
        for frames in config.frames:
            yield Request(
                prompt=prompt,
                frames=frames,
                height=config.height,
                width=config.width,
                steps=config.steps,
                guidance=config.guidance,
                seed=config.seed,
                first_frame=first_frame,
            )


@dataclass(frozen=True)
class Pipeline:
    """The three networks and the timestep law that the transformer was trained with."""

    model: Goku
    vae: Autoencoder
    text: TextEncoder
    timesteps: Timesteps
    device: torch.device

    @torch.no_grad()
    def sample(self, request: Request) -> Pixels:
        """uint8 pixels [T, H, W, 3], the same for the same request and weights."""
        patch = self.model.config.patch_size
        frames, height, width = request.latent_shape
        grid = (frames, height // patch, width // patch)
        conditioned, empty = self.text.encode([request.prompt, ""])
        layout = Layout.build([grid, grid], [len(conditioned), len(empty)], self.device)
        text_MY = torch.cat([conditioned, empty])
        reference_NP = self._reference(request)
        tokens = layout.lengths[0]

        def velocity(x_NP: Tensor, t: float) -> Tensor:
            t_S = torch.full((2,), t, device=self.device)
            v_NP = self.model(torch.cat([x_NP, x_NP]), t_S, text_MY, layout, reference_NP)
            return guide(v_NP[:tokens], v_NP[tokens:], request.guidance)

        generator = torch.Generator(self.device).manual_seed(request.seed)
        noise_NP = torch.randn(
            tokens, self.model.config.token_width, generator=generator, device=self.device
        )
        x_NP = euler(velocity, noise_NP, self.timesteps.schedule(request.steps, tokens))
        return self._pixels(unpatchify(x_NP, request.latent_shape, patch))

    def _reference(self, request: Request) -> Tensor | None:
        """The first frame's latent over all latent frames, once per segment (paper section 2.5)."""
        if request.first_frame is None:
            return None
        x_THWC = torch.from_numpy(request.first_frame).to(self.device, torch.float32) / 127.5 - 1
        z_BCTHW = self.vae.encode(x_THWC.permute(3, 0, 1, 2)[None])
        z_CTHW = z_BCTHW[0].expand(-1, request.latent_shape[0], -1, -1)
        reference_NP = patchify(z_CTHW, self.model.config.patch_size)
        return torch.cat([reference_NP, reference_NP])

    def _pixels(self, z_CTHW: Tensor) -> Pixels:
        x_CTHW = self.vae.decode(z_CTHW[None])[0].float().clamp(-1, 1)
        x_THWC = ((x_CTHW + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
        pixels: Pixels = x_THWC.cpu().numpy()
        return pixels
