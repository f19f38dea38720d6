"""From a curated clip to a sample: read, decode, encode. One path for images and video.

The encode app walks it once for all clips and keeps the results; without a cache of latents the
loader walks it for every sample. The encoders are given: this room knows only what they do.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from goku.config.data import DataConfig
from goku.config.errors import ConfigError
from goku.contract.store import Store
from goku.data import buckets, video
from goku.data.marks import Marks, mark, place
from goku.data.records import Clip, Kind, read_clips, read_media
from goku.data.stream import kinds
from goku.data.video import BadMedia

EMPTY = ""  # the caption of a sample that is trained without one


class Vae(Protocol):
    """What is needed of the autoencoder (goku.vae)."""

    @property
    def causal(self) -> bool: ...

    def encode(self, x_BCTHW: Tensor) -> Tensor: ...


class Text(Protocol):
    """What is needed of the text encoder (goku.text)."""

    def encode(self, captions: Sequence[str]) -> list[Tensor]: ...


class Sample(NamedTuple):
    """What the transformer sees of a clip: on the CPU, and float32 but for cached captions."""

    latent_CTHW: Tensor
    text_LY: Tensor  # bfloat16 from a cache, as it is stored; float32 from an encoder
    first_CHW: Tensor  # the latent of the first frame alone: the reference of I2V


class Share(NamedTuple):
    """The curated clips as one of several ranks sees them."""

    clips: list[Clip]  # this rank's, sorted by id
    whole: Marks  # the ids of all ranks' clips


def share(store: Store, config: DataConfig, *, rank: int = 0, ranks: int = 1) -> Share:
    """The curated clips of the kinds that `image_share` asks for.

    Whose a clip is follows from its id and the number of ranks. Raises ConfigError when there is
    none, whoever's.
    """
    asked, marks = kinds(config.image_share), array("Q")

    def mine(id: str, kind: Kind) -> bool:
        if kind not in asked:
            return False
        marks.append(mark(id))
        return place(marks[-1], ranks) == rank

    clips = read_clips(store, mine)
    if not marks:
        raise ConfigError(
            f"data.clips in {store.uri}",
            f"no curated {' or '.join(sorted(asked))} lies there",
            "Launch curate on your footage first, then name that run in data.clips.",
        )
    return Share(clips, Marks.of(marks))


class ClipEncoder:
    """Turns clips of one store into samples, at the sizes that the configuration allows."""

    def __init__(self, store: Store, *, vae: Vae, text: Text, config: DataConfig) -> None:
        self._store, self._vae, self._text, self._config = store, vae, text, config

    def sample(self, clip: Clip, *, caption: bool = True) -> Sample:
        """Read and encode a clip, or all but its caption. Raises BadMedia naming the clip."""
        return self.encode(self.pixels(clip), clip.caption if caption else EMPTY)

    def pixels(self, clip: Clip) -> Tensor:
        """Decoded frames x_CTHW, uint8. Any thread. Raises BadMedia naming the clip."""
        frames, height, width = buckets.size(clip, self._config)
        data = read_media(self._store, clip)
        try:
            if not clip.made_of(data):
                raise BadMedia("its bytes have changed since it was curated")
            x_THWC = video.decode(
                data, frames=frames, fps=self._config.fps, height=height, width=width
            )
        except BadMedia as error:
            raise BadMedia(f"clip {clip.id} of {clip.source} in {clip.shard}: {error}") from error
        return torch.from_numpy(x_THWC).permute(3, 0, 1, 2)

    def encode(self, x_CTHW: Tensor, caption: str) -> Sample:
        """A sample of decoded frames and a caption."""
        x_BCTHW = x_CTHW[None].float() / 127.5 - 1
        latent_CTHW = self._vae.encode(x_BCTHW)[0].cpu()
        if self._vae.causal:
            first_CHW = latent_CTHW[:, 0]
        else:
            first_CHW = self._vae.encode(x_BCTHW[:, :, :1])[0, :, 0].cpu()
        return Sample(latent_CTHW, self.text(caption), first_CHW)

    def text(self, caption: str) -> Tensor:
        """The embedding text_LY of a caption."""
        return self._text.encode([caption])[0].cpu()
