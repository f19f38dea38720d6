"""The stages of training and the jobs around them as presets, and the model sizes of Table 1.

A preset is a tree of settings; `build` lays size, stage and overrides on one another, in that
order. `--size tiny` also shrinks geometry and schedule, so that every stage runs on a CPU.
"""

from collections.abc import Mapping
from typing import Any

from goku.config.errors import ConfigError
from goku.config.overrides import merge
from goku.config.run import RunConfig
from goku.config.section import unknown_key

Tree = Mapping[str, Any]

SIZES: dict[str, Tree] = {
    "tiny": {"layers": 2, "width": 64, "heads": 4, "text_width": 64, "latent_channels": 4},
    "1b": {"layers": 28, "width": 1152, "heads": 16},
    "2b": {"layers": 28, "width": 1792, "heads": 28},
    "8b": {"layers": 40, "width": 3072, "heads": 48},
}

# The faster engine on two H200s: docs/results/2026-11-22-two-gpus.md. 8B also cuts its weights.
_ENGINES: dict[str, Tree] = {
    "2b": {"engine": "fsdp2", "zero_stage": 2},
    "8b": {"engine": "fsdp2", "zero_stage": 3},
}


def _encode(height: int, width: int, frames: int) -> Tree:
    data = {"height": height, "width": width, "frames": frames}
    return {"job": "encode", "data": {**data, "image_share": 1.0} if frames == 1 else data}


def _train(data: Tree, init_from: str | None, **training: Any) -> Tree:
    return {"job": "train", "data": data, "training": {"init_from": init_from, **training}}


def _joint(height: int, width: int, pack_tokens: int, image_share: float = 0.5) -> Tree:
    """Joint image-video data at one rung of the cascade, 97 frames: about 4 s."""
    return {
        "latents": f"encode-{height}x{width}",
        "height": height,
        "width": width,
        "frames": 97,
        "pack_tokens": pack_tokens,
        "image_share": image_share,
    }


_IMAGES: Tree = {
    "latents": "encode-images",
    "height": 256,
    "width": 256,
    "frames": 1,
    "image_share": 1.0,
    "pack_tokens": 16_384,
}
_FULL: Tree = _joint(720, 1280, 92_160)  # one clip of 90,000 tokens fits
_LARGE_IMAGES: Tree = {**_FULL, "frames": 1, "image_share": 1.0, "pack_tokens": 36_000}

PRESETS: dict[str, Tree] = {
    "curate": {"job": "curate"},
    "encode-images": _encode(256, 256, 1),
    "encode-288x512": _encode(288, 512, 97),
    "encode-480x864": _encode(480, 864, 97),
    "encode-720x1280": _encode(720, 1280, 97),
    "stage1": _train(_IMAGES, None),
    "stage2-288x512": _train(_joint(288, 512, 36_864), "stage1"),
    "stage2-480x864": _train(_joint(480, 864, 40_960), "stage2-288x512"),
    "stage2-720x1280": _train(_FULL, "stage2-480x864"),
    "stage3-t2i": _train(_LARGE_IMAGES, "stage2-720x1280", steps=20_000, learning_rate=5e-5),
    "stage3-t2v": _train(
        {**_FULL, "image_share": 0.0}, "stage2-720x1280", steps=20_000, learning_rate=5e-5
    ),
    "stage3-i2v": {  # 10k steps from T2V weights (paper section 5.3)
        **_train({**_FULL, "image_share": 0.0}, "stage3-t2v", steps=10_000, learning_rate=5e-5),
        "model": {"image_conditioned": True},
    },
    "sample": {"job": "sample", "sampling": {"weights_from": "stage3"}},
}

# Short names for the common road at 288x512: one run per stage, each from the one before.
_ROAD: Tree = {"height": 288, "width": 512, "pack_tokens": 36_864, "latents": "encode"}
ALIASES: dict[str, tuple[str, Tree]] = {
    "encode": ("encode-288x512", {}),
    "stage2": ("stage2-288x512", {"data": _ROAD}),
    "stage3": ("stage3-t2v", {"data": _ROAD, "training": {"init_from": "stage2"}}),
}

_TINY_FRAMES = {
    (256, 256): (64, 64),
    (288, 512): (64, 112),
    (480, 864): (96, 160),
    (720, 1280): (128, 224),
}
_TINY: Tree = {
    "vae": {"weights": "random"},
    "text": {"kind": "bytes", "max_tokens": 64},
    "data": {"packs_per_step": 2, "fps": 12.0},
    "parallel": {"processes_per_node": 2, "precision": "fp32"},
    "flow": {"shift_base_tokens": 16},
    "training": {
        "steps": 40,
        "learning_rate": 2e-3,
        "warmup_steps": 5,
        "ema_decay": 0.95,
        "log_interval_steps": 5,
        "validation_interval_steps": 20,
        "validation_samples": 4,
    },
    "checkpoint": {"interval_steps": 20, "stop_budget_seconds": 60, "grace_seconds": 90},
    "curation": {  # small footage passes: the gates of Table 3 would keep none of it
        "min_side_pixels": 128,
        "min_bitrate_kbps": 50,
        "min_image_side_pixels": 64,
        "max_clip_seconds": 2.0,
        "motion_side_pixels": 144,
        "crf": 23,
        "clips_per_shard": 8,
    },
    "sampling": {
        "height": 64,
        "width": 112,
        "frames": (1, 17),
        "fps": 12.0,
        "steps": 10,
        "guidance": 3.0,
    },
}


def names() -> list[str]:
    """Every preset and alias."""
    return sorted([*PRESETS, *ALIASES])


def build(
    preset: str,
    *,
    store: str,
    size: str = "2b",
    name: str | None = None,
    overrides: Tree | None = None,
) -> RunConfig:
    """The run that a preset describes, at a size, with overrides on top.

    Raises ConfigError for an unknown preset or size, and for every broken rule of the sections.
    """
    tree = _stage(preset)
    if size not in SIZES:
        raise ConfigError(
            f"size={size!r}", f"the sizes are {', '.join(SIZES)}", "Choose one of them."
        )
    tree = merge({"model": SIZES[size], "parallel": _ENGINES.get(size, {})}, tree)
    if size == "tiny":
        tree = merge(_shrink(tree), _TINY)
    tree = merge(tree, {"preset": preset, "store": store, "name": preset if name is None else name})
    return RunConfig.build(merge(tree, overrides or {}))


def _stage(preset: str) -> dict[str, Any]:
    if preset in ALIASES:
        target, over = ALIASES[preset]
        return merge(PRESETS[target], over)
    if preset not in PRESETS:
        raise unknown_key(preset, names(), noun="preset")
    return dict(PRESETS[preset])


def _shrink(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The same stage in a fraction of the pixels, frames and tokens."""
    data = tree.get("data")
    if data is None:
        return dict(tree)
    height, width = _TINY_FRAMES[data["height"], data["width"]]
    frames = 1 if data["frames"] == 1 else 17
    tokens = ((frames - 1) // 4 + 1) * (height // 16) * (width // 16)
    small = {
        "height": height,
        "width": width,
        "frames": frames,
        "pack_tokens": max(128, 2 * tokens),
    }
    return merge(tree, {"data": {key: small[key] for key in small if key in data}})
