"""Clips and sources without media, for tests of order, packing and loading."""

import hashlib
from collections.abc import Sequence

import torch

from goku.data.catalog import Catalog, Entry
from goku.data.encoding import Sample
from goku.data.records import Clip, Kind

CHANNELS, TEXT_WIDTH = 2, 3


def clip(name: str, **over: object) -> Clip:
    """A record of a 640x360 video clip of 2 s."""
    values: dict[str, object] = {
        "id": name,
        "kind": Kind.VIDEO,
        "source": "memory://films/a.mp4",
        "source_sha256": "0" * 64,
        "start_seconds": 0.0,
        "end_seconds": 2.0,
        "width": 640,
        "height": 360,
        "frames": 48,
        "fps": 24.0,
        "caption": f"this is {name}",
        "scores": {},
        "tier": None,
        "shard": "shards/x-000.tar",
        "offset": 0,
        "nbytes": 0,
    }
    return Clip.model_validate(values | over)


class FakeSource:
    """`images` and `videos` of varied shapes; every value of a sample is its number."""

    def __init__(self, images: int, videos: int) -> None:
        entries = [
            Entry(f"{kind}-{number:03d}", kind, _shape(kind, number), None)
            for kind, count in ((Kind.IMAGE, images), (Kind.VIDEO, videos))
            for number in range(count)
        ]
        self.entries = Catalog.of([entries])
        self.loads: list[tuple[str, bool]] = []

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int, *, caption: bool) -> Sample:
        entry = self.entries[index]
        self.loads.append((entry.id, caption))
        latent_CTHW = torch.full((CHANNELS, *entry.shape), float(index))
        latent_CTHW += torch.arange(entry.shape[0])[:, None, None] / 100
        text_LY = torch.full((2 + index % 3 if caption else 1, TEXT_WIDTH), float(index))
        return Sample(latent_CTHW, text_LY, latent_CTHW[:, 0])


def _shape(kind: Kind, number: int) -> tuple[int, int, int]:
    turn = hashlib.sha256(f"{kind}{number}".encode()).digest()[0] % 3
    frames = 1 if kind is Kind.IMAGE else 1 + turn
    return frames, (4, 8, 6)[turn], (8, 4, 6)[turn]


class FakeVae:
    """Mean over 8x8 pixels of every fourth frame. Not causal: clips get their mean added."""

    latent_channels = 3

    def __init__(self, *, causal: bool = True) -> None:
        self.causal = causal

    def encode(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        z_BCTHW = torch.nn.functional.avg_pool3d(x_BCTHW[:, :, ::4], (1, 8, 8))
        return z_BCTHW if self.causal else z_BCTHW + x_BCTHW.mean() * (x_BCTHW.shape[2] > 1)


class FakeText:
    """One row per character, and one for the end."""

    width = TEXT_WIDTH

    def encode(self, captions: Sequence[str]) -> list[torch.Tensor]:
        rows = [[float(ord(letter)) for letter in caption] + [1.0] for caption in captions]
        return [torch.tensor(row)[:, None].expand(-1, TEXT_WIDTH) for row in rows]
