"""The facade over diffusers' autoencoders. An image is a clip of one frame (paper section 2.1).

Latents leave normalised, about mean 0 and variance 1 per channel, as the flow expects. Encoding is
the posterior's mode, so that a clip has one latent. The networks keep state between the chunks of a
clip, so a lock lets one thread in at a time. Diffusers takes seconds to import: only `load` does.
"""

import hashlib
import threading
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from goku.config.data import SPATIAL_STRIDE, TEMPORAL_STRIDE
from goku.config.encoders import VaeConfig
from goku.config.errors import ConfigError
from goku.contract import weights as files
from goku.contract.weights import Weights
from goku.vae.kinds import KINDS, Kind

RANDOM = "random"  # in place of a folder


class Scale(NamedTuple):
    """Mean and standard deviation of the latents as the network gives them."""

    mean_C: Tensor
    std_C: Tensor


class Autoencoder:
    """Pixels x_BCTHW in [-1, 1] to latents z_BCTHW at stride 4 x 8 x 8, and back. Frozen."""

    def __init__(self, net: Any, *, kind: Kind, scale: Scale, identity: str | Weights) -> None:
        """`identity` is what tells two autoencoders apart; files are read only for the digest."""
        self._net, self._scale, self._identity = net, scale, identity
        self._lock = threading.Lock()
        self._even = kind.even
        self.causal = kind.causal
        self.latent_channels = len(scale.mean_C)

    @classmethod
    def load(
        cls,
        config: VaeConfig,
        *,
        latent_channels: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The autoencoder that the configuration names, with weights of `dtype` on `device`.

        Raises ConfigError when the weights are missing, of another kind or stride, or have another
        number of latent channels than the model.
        """
        kind, identity = KINDS[config.kind], _identity(config, latent_channels)
        if isinstance(identity, Weights):
            net = _trained(config, identity, latent_channels)
            mean_C, std_C = (torch.tensor(values) for values in kind.scale(net.config))
        else:
            net = _random(kind, latent_channels, config.seed)
            mean_C, std_C = _measured(net)
        net = net.to(device=device, dtype=dtype).requires_grad_(False).eval()
        scale = Scale(mean_C.to(device), std_C.to(device))
        return cls(net, kind=kind, scale=scale, identity=identity)

    @cached_property
    def digest(self) -> str:
        """Identity of kind and weights, for caches of latents. Reads all files once."""
        known = self._identity
        text = f"{type(self._net).__name__}:{known if isinstance(known, str) else known.digest()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Normalised latents z_BCTHW, float32 on the autoencoder's device.

        The clip has 4k+1 frames, which give k+1 latent frames; height and width are multiples
        of 8. Raises ValueError for other shapes.
        """
        frames, height, width = x_BCTHW.shape[2:]
        if (frames - 1) % TEMPORAL_STRIDE or height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
            raise ValueError(
                f"{frames} frames of {height}x{width}: the autoencoder takes 4k+1 frames with "
                f"sides that are multiples of {SPATIAL_STRIDE}. Choose the shape with data.buckets."
            )
        with self._lock, torch.no_grad():
            z_BCTHW: Tensor = self._net.encode(self._placed(x_BCTHW)).latent_dist.mode().float()
        mean_C111, std_C111 = (_channels(value_C) for value_C in self._scale)
        return (z_BCTHW - mean_C111) / std_C111

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Pixels x_BCTHW in [-1, 1], float32: k+1 normalised latent frames give 4k+1 frames."""
        frames = (z_BCTHW.shape[2] - 1) * TEMPORAL_STRIDE + 1
        if not self._even and z_BCTHW.shape[2] % 2 == 0:
            z_BCTHW = torch.cat([z_BCTHW, z_BCTHW[:, :, -1:]], dim=2)
        mean_C111, std_C111 = (_channels(value_C) for value_C in self._scale)
        z_BCTHW = z_BCTHW.to(mean_C111.device) * std_C111 + mean_C111
        with self._lock, torch.no_grad():
            x_BCTHW: Tensor = self._net.decode(self._placed(z_BCTHW)).sample.float()
        return x_BCTHW[:, :, :frames].clamp(-1, 1)

    def _placed(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.to(device=self._scale.mean_C.device, dtype=self._net.dtype)


def _identity(config: VaeConfig, latent_channels: int) -> str | Weights:
    if config.weights is None:
        raise ConfigError(
            "vae.weights=None",
            "the autoencoder needs weights",
            "Give a folder or URI in diffusers layout, or random for a tiny untrained one.",
        )
    if config.weights == RANDOM:
        return f"{RANDOM}:{config.seed}:{latent_channels}"
    return files.find(config.weights, key="vae.weights")


def _trained(config: VaeConfig, weights: Weights, latent_channels: int) -> Any:
    kind, found = KINDS[config.kind], weights.config().get("_class_name")
    if found != kind.class_name:
        raise _unfit(weights, f"they are {found}, not {kind.class_name}")
    net, report = _class(kind).from_pretrained(
        weights.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if report["missing_keys"]:
        raise _unfit(weights, f"tensors are missing: {', '.join(report['missing_keys'][:3])}, ...")
    if kind.channels(net.config) != latent_channels:
        rule = f"they have {kind.channels(net.config)} latent channels, the model {latent_channels}"
        raise _unfit(weights, rule)
    if kind.stride(net.config) != (TEMPORAL_STRIDE, SPATIAL_STRIDE):
        rule = f"their stride is {kind.stride(net.config)}, not {(TEMPORAL_STRIDE, SPATIAL_STRIDE)}"
        raise _unfit(weights, rule)
    return net


def _unfit(weights: Weights, rule: str) -> ConfigError:
    return ConfigError(
        f"vae.weights in {weights.folder}",
        rule,
        "Fetch others, or make vae.kind and model.latent_channels agree with them.",
    )


def _random(kind: Kind, channels: int, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _class(kind)(**kind.tiny(channels)).eval()


def _measured(net: Any) -> Scale:
    """The scale of an untrained network's latents, taken on one clip of noise."""
    noise_BCTHW = torch.rand(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z_BCTHW = net.encode(noise_BCTHW).latent_dist.mode()
    return Scale(z_BCTHW.mean((0, 2, 3, 4)), z_BCTHW.std((0, 2, 3, 4)))


def _class(kind: Kind) -> Any:
    files.stay_offline()
    import diffusers

    diffusers.logging.set_verbosity_error()  # it warns of casts that change nothing here
    return getattr(diffusers, kind.class_name)


def _channels(value_C: Tensor) -> Tensor:
    return value_C[:, None, None, None]
