"""What differs between the autoencoders: class, causality, stride, and the scale of the latents.

A new kind is one more entry here. `Config` is the network's configuration as diffusers keeps it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One family of autoencoders in diffusers."""

    class_name: str  # in diffusers, and `_class_name` in config.json
    causal: bool  # whether latent frame 0 of a clip is the latent of its first image
    even: bool  # whether it decodes an even number of latent frames to 4k+1 frames
    channels: Callable[[Config], int]  # of the latents
    stride: Callable[[Config], tuple[int, int]]  # in time and in space
    scale: Callable[[Config], tuple[list[float], list[float]]]  # mean and std of the latents, [C]
    tiny: Callable[[int], dict[str, Any]]  # latent channels -> arguments of a very small network


def _wan_stride(config: Config) -> tuple[int, int]:
    space = 2 ** (len(config["dim_mult"]) - 1) * (config["patch_size"] or 1)
    return 2 ** sum(config["temperal_downsample"]), space


def _wan_tiny(channels: int) -> dict[str, Any]:
    return {
        "base_dim": 8,
        "z_dim": channels,
        "dim_mult": [1, 2, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "latents_mean": [0.0] * channels,
        "latents_std": [1.0] * channels,
    }


def _cogvideox_stride(config: Config) -> tuple[int, int]:
    return int(config["temporal_compression_ratio"]), 2 ** (len(config["block_out_channels"]) - 1)


def _cogvideox_scale(config: Config) -> tuple[list[float], list[float]]:
    channels = config["latent_channels"]
    return [0.0] * channels, [1 / config["scaling_factor"]] * channels


def _cogvideox_tiny(channels: int) -> dict[str, Any]:
    return {
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": channels,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "temporal_compression_ratio": 4,
    }


KINDS: dict[str, Kind] = {
    "wan": Kind(
        class_name="AutoencoderKLWan",
        causal=True,
        even=True,
        channels=lambda config: int(config["z_dim"]),
        stride=_wan_stride,
        scale=lambda config: (list(config["latents_mean"]), list(config["latents_std"])),
        tiny=_wan_tiny,
    ),
    "cogvideox": Kind(
        class_name="AutoencoderKLCogVideoX",
        causal=False,  # measured: how many frames follow changes a clip's first latent frame
        even=False,  # measured: 2 latent frames become 8
        channels=lambda config: int(config["latent_channels"]),
        stride=_cogvideox_stride,
        scale=_cogvideox_scale,
        tiny=_cogvideox_tiny,
    ),
}
