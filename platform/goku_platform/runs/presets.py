"""Presets: what can be launched, as it is before a size or an override is laid on it."""

from pydantic import BaseModel, ConfigDict

from goku.config.overrides import merge
from goku.config.presets import ALIASES, PRESETS, SIZES


class Preset(BaseModel):
    """One line of the list; None where the job has no such thing."""

    model_config = ConfigDict(frozen=True)

    name: str
    job: str
    alias_of: str | None = None
    height: int | None = None  # pixels
    width: int | None = None
    frames: int | None = None
    reads: str | None = None  # the run whose clips, latents or weights it needs
    starts_from: str | None = None


def listing() -> tuple[Preset, ...]:
    """Aliases are listed after what they stand for."""
    plain = [_preset(name, dict(tree)) for name, tree in PRESETS.items()]
    short = [
        _preset(name, merge(PRESETS[target], over), alias_of=target)
        for name, (target, over) in ALIASES.items()
    ]
    return tuple(plain + short)


def sizes() -> tuple[str, ...]:
    """The model sizes, smallest first."""
    return tuple(SIZES)


def _preset(name: str, tree: dict[str, dict[str, object]], alias_of: str | None = None) -> Preset:
    data, training, sampling = (tree.get(key, {}) for key in ("data", "training", "sampling"))
    return Preset.model_validate(
        {
            "name": name,
            "job": tree["job"],
            "alias_of": alias_of,
            **{key: data.get(key) for key in ("height", "width", "frames")},
            "reads": data.get("latents"),
            "starts_from": training.get("init_from") or sampling.get("weights_from"),
        }
    )
