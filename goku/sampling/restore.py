"""The three networks of a sample.

The transformer's shape and timestep law come from where its weights come from; the encoders come
from the sampling run, because a run on cached latents never had them.
"""

import torch

from goku.config.errors import ConfigError
from goku.config.run import RunConfig
from goku.flow.timesteps import Timesteps
from goku.model import init
from goku.sampling.origin import Origin
from goku.sampling.pipeline import Pipeline
from goku.text.encoder import TextEncoder
from goku.vae.autoencoder import Autoencoder


def restore(config: RunConfig, trained: Origin) -> Pipeline:
    """The pipeline on this machine's GPU, or its CPU.

    Raises ConfigError if a first frame is missing or too much, or an encoder does not fit.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    _check_first_frame(config, trained)
    model = init.build(trained.model, seed=0)  # every weight is replaced
    model.load_state_dict(trained.weights)
    shape = trained.model
    return Pipeline(
        model=model.to(device, dtype).eval(),
        vae=Autoencoder.load(config.vae, latent_channels=shape.latent_channels, device=device),
        text=TextEncoder.load(config.text, width=shape.text_width, device=device),
        timesteps=Timesteps(trained.flow),
        device=device,
    )


def _check_first_frame(config: RunConfig, trained: Origin) -> None:
    given, wanted = config.sampling.first_frame is not None, trained.model.image_conditioned
    if given != wanted:
        raise ConfigError(
            f"sampling.first_frame={config.sampling.first_frame}",
            f"run {trained.name} was {'' if wanted else 'not '}trained to go on from a first frame",
            "Give a picture's path or URI." if wanted else "Leave it out, or sample an I2V run.",
        )
