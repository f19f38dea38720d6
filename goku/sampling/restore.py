"""The three networks of a sample, from a training run's checkpoint and its frozen configuration.

The transformer's shape and timestep law come from the run that trained it; the encoders come from
the sampling run, because a run on cached latents never had them.
"""

import torch

from goku.checkpoint.load import Checkpoint, weights
from goku.config.errors import ConfigError
from goku.config.run import RunConfig
from goku.contract.manifest import Manifest
from goku.contract.rundir import RunDir, locate
from goku.flow.timesteps import Timesteps
from goku.model import init
from goku.sampling.pipeline import Pipeline
from goku.text.encoder import TextEncoder
from goku.vae.autoencoder import Autoencoder


def restore(config: RunConfig) -> Pipeline:
    """The pipeline on this machine's GPU, or its CPU.

    Raises ConfigError if there is no such run or checkpoint, CorruptCheckpoint if it has changed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    trained = RunDir(locate(config.store, config.sampling.weights_from or ""))
    origin = trained.config()
    _check_first_frame(config, origin)
    model = init.build(origin.model, seed=0)  # every weight is replaced
    kind = "ema" if config.sampling.ema else "model"
    manifest = _manifest(trained, config)
    checkpoint = Checkpoint(trained.checkpoint(manifest.step), manifest)
    model.load_state_dict(weights(checkpoint, kind=kind))
    shape = origin.model
    return Pipeline(
        model=model.to(device, dtype).eval(),
        vae=Autoencoder.load(config.vae, latent_channels=shape.latent_channels, device=device),
        text=TextEncoder.load(config.text, width=shape.text_width, device=device),
        timesteps=Timesteps(origin.flow),
        device=device,
    )


def _check_first_frame(config: RunConfig, origin: RunConfig) -> None:
    given, wanted = config.sampling.first_frame is not None, origin.model.image_conditioned
    if given != wanted:
        raise ConfigError(
            f"sampling.first_frame={config.sampling.first_frame}",
            f"run {origin.name} was {'' if wanted else 'not '}trained to go on from a first frame",
            "Give a picture's path or URI." if wanted else "Leave it out, or sample an I2V run.",
        )


def _manifest(trained: RunDir, config: RunConfig) -> Manifest:
    step = config.sampling.step
    found = trained.latest() if step is None else trained.manifest(step)
    if found is None:
        raise ConfigError(
            f"sampling.weights_from={config.sampling.weights_from}",
            f"{trained.uri} has no complete checkpoint",
            "Train it first, or name another run.",
        )
    return found
