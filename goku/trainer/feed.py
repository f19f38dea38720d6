"""What a run trains on: its source, how samples are dealt to packs, and who reads them."""

from functools import cache, partial

from goku.config import RunConfig
from goku.contract.rundir import CLIPS, LATENTS, locate
from goku.data.apart import Apart
from goku.data.balance import Cost, Table
from goku.data.degrees import Sharing
from goku.data.loader import Feed, Loader
from goku.data.source import CachedSource, OnlineSource, Source
from goku.model.flops import forward_flops
from goku.parallel.mesh import Mesh
from goku.text.encoder import TextEncoder
from goku.vae.autoencoder import Autoencoder


def source_of(config: RunConfig, mesh: Mesh) -> Source:
    """Cached latents, or clips that the run's own models encode on this rank's device."""
    data, model = config.data, config.model
    if data.latents is not None:
        return CachedSource(
            f"{locate(config.store, data.latents)}/{LATENTS}",
            latent_channels=model.latent_channels,
            text_width=model.text_width,
        )
    return OnlineSource(
        f"{locate(config.store, data.clips)}/{CLIPS}",
        vae=Autoencoder.load(config.vae, latent_channels=model.latent_channels, device=mesh.device),
        text=TextEncoder.load(config.text, width=model.text_width, device=mesh.device),
        config=data,
    )


def loader_of(
    source: Source, config: RunConfig, *, data_rank: int, data_ranks: int, pinned: bool = False
) -> Loader:
    """The packs of one of the ranks that see different samples."""
    return Loader(
        source,
        config.data,
        patch=config.model.patch_size,
        data_rank=data_rank,
        data_ranks=data_ranks,
        holdout=config.training.validation_samples,
        image_conditioned=config.model.image_conditioned,
        cost=cost_of(config),
        sharing=sharing_of(config),
        pinned=pinned,
    )


def feed_of(loader: Loader, source: Source, config: RunConfig, mesh: Mesh) -> Feed:
    """The loader itself, whose threads read, or the same one in a process of its own."""
    on_gpu = mesh.device.type == "cuda"
    auto = "process" if on_gpu and config.data.latents is not None else "threads"
    readers = auto if config.parallel.readers == "auto" else config.parallel.readers
    if readers == "threads":
        return loader
    again = partial(loader_of, source, config, data_rank=mesh.data_rank, data_ranks=mesh.data)
    return Apart(again, pinned=on_gpu)


def sharing_of(config: RunConfig) -> Sharing:
    """What a sequence group does with a pack: by measured time where there is some, else by FLOPs.

    Never by tokens: runs that finish together are more than runs of as many tokens.
    """
    measured = cost_of(config) if config.data.balance == "measured" else None
    cost = cache(measured or _flops_of_sample(config))
    return Sharing.of(config.parallel, config.data.pack_tokens, cost)


def cost_of(config: RunConfig) -> Cost | None:
    """What a sample of so many tokens costs, as data.balance wants it counted."""
    if config.data.costs is not None:
        return Table.read(config.data.costs)
    counted: dict[str, Cost] = {"tokens": float, "flops": _flops_of_sample(config)}
    return counted.get(config.data.balance)


def _flops_of_sample(config: RunConfig) -> Cost:
    text = [config.text.max_tokens]
    return lambda tokens: float(forward_flops(config.model, [tokens], text))
