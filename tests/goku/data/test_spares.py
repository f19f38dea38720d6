"""Damaged samples: the same others take their places on all ranks, a bounded number of them."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.config import ConfigError
from goku.config.data import DataConfig
from goku.contract.store import Store
from goku.data.cache import CacheWriter, LatentCache, Meta
from goku.data.encoding import EMPTY, ClipEncoder, Sample, share
from goku.data.loader import Loader
from goku.data.records import Clip, Commit, add_commit, write_clips
from goku.data.shards import BrokenShard
from goku.data.source import CachedSource, OnlineSource, Source
from goku.data.video import encode_mp4
from tests.footage import shot
from tests.goku.data.fakes import TEXT_WIDTH, FakeSource, FakeText, FakeVae, clip

SHARD = "shards/one-000.tar"
PACKS = 6
FILMS = DataConfig(
    height=64, width=112, frames=9, fps=12, pack_tokens=200, packs_per_step=1, image_share=0
)


class Worn(FakeSource):
    """Some of its samples are damaged, some only the first time they are read."""

    def __init__(self, *damaged: str, once: tuple[str, ...] = ()) -> None:
        super().__init__(images=6, videos=24)
        self.damaged, self.once = set(damaged), set(once)

    def load(self, index: int, *, caption: bool) -> Sample:
        id = self.entries[index].id
        if id in self.damaged | self.once:
            self.once.discard(id)
            raise BrokenShard(f"the shard of {id} has changed")
        return super().load(index, caption=caption)


def loader(source: Source, *, most: int = 4, **over: Any) -> Loader:
    config = DataConfig(pack_tokens=40, packs_per_step=PACKS, image_share=0.2, damaged_samples=most)
    return Loader(source, config, patch=2, **over)


def numbers(loader: Loader, steps: int = 6) -> dict[int, tuple[int, int]]:
    """Of each sample of some steps by its ordinal: which one was read, and its tokens."""
    found = {}
    for step in islice(loader.steps(), steps):
        for pack in step.packs:
            starts = torch.tensor([0, *pack.layout.lengths]).cumsum(0)[:-1]
            read = pack.x_NP[starts, 0].int().tolist()
            found |= dict(
                zip(pack.ordinals, zip(read, pack.layout.lengths, strict=True), strict=True)
            )
    return found


def test_others_of_their_shape_take_the_places_of_damaged_samples() -> None:
    whole, worn = FakeSource(6, 24), Worn("video-003", "video-007")
    expected, got = numbers(loader(whole)), numbers(loader(worn))
    assert expected.keys() == got.keys()
    replaced = {expected[n][0]: got[n] for n in expected if expected[n] != got[n]}
    assert {whole.entries[index].id for index in replaced} == worn.damaged
    for index, (other, _) in replaced.items():
        assert whole.entries[index].form == whole.entries[other].form
        assert whole.entries[other].id not in worn.damaged
    assert {n: tokens for n, (_, tokens) in expected.items()} == {
        n: tokens for n, (_, tokens) in got.items()
    }


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_replace_a_sample_by_the_same_one(ranks: int) -> None:
    damaged = ("video-003", "video-007", "image-001")
    alone = numbers(loader(Worn(*damaged)))
    shared = [
        numbers(loader(Worn(*damaged), data_rank=rank, data_ranks=ranks)) for rank in range(ranks)
    ]
    assert {n: found for part in shared for n, found in part.items()} == alone


def test_what_is_whole_the_second_time_is_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    worn = Worn(once=("video-003", "image-001"))
    assert numbers(loader(worn, most=0)) == numbers(loader(FakeSource(6, 24)))
    assert not worn.once
    assert "damaged" not in capsys.readouterr().out


def test_each_is_named_once_and_one_too_many_is_the_users_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers(loader(Worn("video-003", "video-007"), most=2), steps=12)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert {"clip video-003 is" in line for line in said} == {True, False}
    assert "(2 of at most 2 on this rank): the shard of video-00" in said[1]
    with pytest.raises(ConfigError, match=r"data.damaged_samples=1: this rank has met one more: "):
        numbers(loader(Worn("video-003", "video-007"), most=1), steps=12)


def test_held_out_samples_stand_in_for_held_out_ones_alone() -> None:
    held = loader(FakeSource(6, 24), holdout=20).validation()
    indices = [int(batch.x_NP[0, 0]) for batch in held]
    entries = FakeSource(6, 24).entries
    forms = [entries[index].form for index in indices]
    twin = next(n for n, form in enumerate(forms) if forms.count(form) > 1)
    worn = Worn(entries[indices[twin]].id)
    got = [int(batch.x_NP[0, 0]) for batch in loader(worn, holdout=20).validation()]
    assert got[twin] != indices[twin]
    assert got[twin] in indices
    assert got[:twin] + got[twin + 1 :] == indices[:twin] + indices[twin + 1 :]


def test_a_shape_without_a_whole_sample_ends_the_run() -> None:
    ids = [entry.id for entry in FakeSource(6, 24).entries]
    with pytest.raises(ConfigError, match="there is no whole one of its shape to take its place"):
        numbers(loader(Worn(*ids), most=len(ids)))


def films(store: Store) -> list[Clip]:
    """Four clips of one shape, of which the bytes of the second are gone; in the order of ids."""
    blob, clips = b"", []
    for number in range(4):
        data = encode_mp4(shot(9, height=72, width=128, seed=number), fps=12, crf=20)
        size = {"height": 72, "width": 128, "frames": 9, "fps": 12.0}
        place = {"shard": SHARD, "offset": len(blob), "nbytes": len(data)}
        clips.append(clip(f"v{number}", **place, **size))
        blob += data
    store.write(SHARD, blob)
    write_clips(store, "records/one.parquet", clips)
    add_commit(
        store, Commit(task_key="one", source="a", source_sha256="s", records="records/one.parquet")
    )
    return clips


def spoil(store: Store, name: str, start: int, nbytes: int) -> None:
    data = store.read(name)
    store.write(name, data[:start] + bytes(nbytes) + data[start + nbytes :])


def online(tmp_path: Path) -> Source:
    store = Store(str(tmp_path))
    second = films(store)[1]
    spoil(store, SHARD, second.offset, second.nbytes)
    return OnlineSource(store.uri, vae=FakeVae(), text=FakeText(), config=FILMS)


def cached(tmp_path: Path) -> Source:
    store, latents = Store(str(tmp_path / "clips")), LatentCache(Store(str(tmp_path / "latents")))
    films(store)
    encoder = ClipEncoder(store, vae=FakeVae(), text=FakeText(), config=FILMS)
    shape = FILMS.model_dump(include={"height", "width", "frames", "fps"})
    meta = Meta(vae="v", text="t", causal=True, latent_channels=3, text_width=TEXT_WIDTH, **shape)
    latents.begin(meta, encoder.text(EMPTY))
    writer = CacheWriter(latents)
    for each in share(store, FILMS).clips:
        writer.add(each.id, each.kind, encoder.sample(each))
    writer.flush()
    latents.complete()
    (commit,) = latents.commits()
    assert commit.shard
    assert commit.clips[1].start
    spoil(latents.store, commit.shard, commit.clips[1].start, 16)
    return CachedSource(latents.store.uri, latent_channels=3, text_width=TEXT_WIDTH)


@pytest.mark.parametrize("damaged", [online, cached])
def test_encoded_and_cached_clips_are_treated_alike(damaged: Any, tmp_path: Path) -> None:
    source: Source = damaged(tmp_path)
    steps = Loader(source, FILMS, patch=2).steps()
    packs = [pack for step in islice(steps, 4) for pack in step.packs]
    captions = [
        bytes(part[:-1, 0].byte().tolist()).decode()
        for pack in packs
        for part in pack.text_MY.split(list(pack.layout.text_lengths))
        if len(part) > 1
    ]
    assert {"this is v0", "this is v2", "this is v3"} == set(captions)
