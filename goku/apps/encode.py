"""Encode curated clips and captions once: `python -m goku.apps.encode`, one process a GPU.

Training then reads latents instead of pixels. What is committed stays: an attempt that was stopped
or killed goes on with the clips that no commit names, on as many processes as it has. They share
nothing but the store. Signals are caught before torch is imported.
"""

import os

from goku.apps.entry import Context, launch
from goku.contract.exits import Cause
from goku.contract.rundir import CLIPS, LATENTS, locate
from goku.contract.store import Store
from goku.trainer.health import Health

_CLIPS_AHEAD = 2  # decoded while one is encoded: a clip's pixels take up to a gigabyte


def encode(context: Context) -> Cause:
    """Encode what is missing into `<run>/latents`. YIELDED when asked to stop, with all kept.

    Raises ConfigError if there is nothing to encode or the encoders do not fit the model.
    """
    health = Health(context.pod, rank=context.rank, budgets=context.config.health)
    health.install()
    try:
        return Cause.DONE if _fill(context, health) else Cause.YIELDED
    finally:
        health.uninstall()


def _fill(context: Context, health: Health) -> bool:
    from goku.data.cache import LatentCache, Meta
    from goku.data.encoding import EMPTY, ClipEncoder, share
    from goku.data.fill import fill
    from goku.parallel.mesh import device_of
    from goku.text.encoder import TextEncoder
    from goku.vae.autoencoder import Autoencoder

    config = context.config
    store = Store(f"{locate(config.store, config.data.clips)}/{CLIPS}")
    mine = share(store, config.data, rank=context.rank, ranks=context.ranks)
    device = device_of(int(os.environ.get("LOCAL_RANK", "0")))
    # Both in float32, whatever the precision of training: what they round away is lost for good.
    vae = Autoencoder.load(config.vae, latent_channels=config.model.latent_channels, device=device)
    text = TextEncoder.load(config.text, width=config.model.text_width, device=device)
    encoder = ClipEncoder(store, vae=vae, text=text, config=config.data)
    cache = LatentCache(context.run.store.child(LATENTS))
    meta = Meta(
        vae=vae.digest,
        text=text.digest,
        causal=vae.causal,
        latent_channels=vae.latent_channels,
        text_width=text.width,
        height=config.data.height,
        width=config.data.width,
        frames=config.data.frames,
        fps=config.data.fps,
    )
    cache.begin(meta, encoder.text(EMPTY))
    health.section("step")
    return fill(cache, mine, encoder=encoder, watch=health, depth=_CLIPS_AHEAD)


if __name__ == "__main__":
    launch(encode)
