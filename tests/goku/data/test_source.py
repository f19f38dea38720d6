"""Online and cached samples are the same; caches that do not fit or are unfinished are refused."""

import gc
import re
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from goku.config import ConfigError
from goku.config.data import DataConfig
from goku.contract.store import Store
from goku.data import cache as caches
from goku.data import source
from goku.data.cache import CachedClip, CacheWriter, Encoded, LatentCache, Meta
from goku.data.encoding import EMPTY, ClipEncoder, Sample, share
from goku.data.loader import Loader
from goku.data.marks import Marks, mark
from goku.data.records import Clip, Commit, Kind, add_commit, read_clips, write_clips
from goku.data.shards import Shard
from goku.data.source import CachedSource, OnlineSource
from goku.data.video import BadMedia
from tests.goku.data import fakes
from tests.goku.data.curated import SHARD, write_curated
from tests.goku.data.damage import DAMAGE, Damage
from tests.goku.data.fakes import TEXT_WIDTH, FakeText, FakeVae

CONFIG = DataConfig(height=64, width=112, frames=17, fps=12, pack_tokens=512, packs_per_step=2)
TOGETHER = 4  # reads that wait for one another
META = Meta(
    vae="v",
    text="t",
    causal=True,
    latent_channels=3,
    text_width=TEXT_WIDTH,
    height=64,
    width=112,
    frames=17,
    fps=12,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("clips")))
    write_curated(store)
    return store


def encoder(clips: Store, *, causal: bool = True, config: DataConfig = CONFIG) -> ClipEncoder:
    return ClipEncoder(clips, vae=FakeVae(causal=causal), text=FakeText(), config=config)


def fill(cache: LatentCache, clips: Store, *, causal: bool = True) -> LatentCache:
    """Encode everything in shards of two clips."""
    encode = encoder(clips, causal=causal)
    cache.begin(META.model_copy(update={"causal": causal}), encode.text(EMPTY))
    writer = CacheWriter(cache)
    for number, clip in enumerate(share(clips, CONFIG).clips):
        writer.add(clip.id, clip.kind, encode.sample(clip))
        if number % 2:
            writer.flush()
    writer.flush()
    cache.complete()
    return cache


@pytest.fixture
def cache(tmp_path: Path, clips: Store) -> LatentCache:
    return fill(LatentCache(Store(str(tmp_path / "latents"))), clips)


def open_cache(cache: LatentCache, **over: int) -> CachedSource:
    return CachedSource(
        cache.store.uri, **({"latent_channels": 3, "text_width": TEXT_WIDTH} | over)
    )


def online(clips: Store, *, causal: bool = True) -> OnlineSource:
    return OnlineSource(clips.uri, vae=FakeVae(causal=causal), text=FakeText(), config=CONFIG)


def test_entries_foretell_the_shapes_of_samples(clips: Store) -> None:
    source = online(clips)
    assert [(entry.id, entry.kind, entry.shape) for entry in source.entries] == [
        ("i0", Kind.IMAGE, (1, 8, 14)),
        ("i1", Kind.IMAGE, (1, 10, 10)),
        ("v0", Kind.VIDEO, (5, 8, 14)),
        ("v1", Kind.VIDEO, (3, 8, 14)),
        ("v2", Kind.VIDEO, (3, 10, 8)),  # portrait stays portrait
    ]
    for index, entry in enumerate(source.entries):
        assert source.load(index, caption=True).latent_CTHW.shape == (3, *entry.shape)


def test_pixels_are_scaled_to_minus_one_to_one(clips: Store) -> None:
    encode = encoder(clips)
    first = share(clips, CONFIG).clips[0]
    x_CTHW = encode.pixels(first)
    assert x_CTHW.dtype == torch.uint8
    expected = torch.nn.functional.avg_pool3d(x_CTHW.double() / 127.5 - 1, (1, 8, 8))
    torch.testing.assert_close(encode.sample(first).latent_CTHW, expected.float())


@pytest.mark.parametrize("causal", [True, False])
def test_cached_samples_equal_online_ones(tmp_path: Path, clips: Store, causal: bool) -> None:
    cache = fill(LatentCache(Store(str(tmp_path))), clips, causal=causal)
    cached, direct = open_cache(cache), online(clips, causal=causal)
    assert [entry[:3] for entry in cached.entries] == [entry[:3] for entry in direct.entries]
    assert len(cached) == len(direct) == 5
    for index, entry in enumerate(cached.entries):
        for caption in (True, False):
            ours, theirs = (source.load(index, caption=caption) for source in (cached, direct))
            torch.testing.assert_close(ours.latent_CTHW, theirs.latent_CTHW, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(ours.first_CHW, theirs.first_CHW, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(ours.text_LY.float(), theirs.text_LY, atol=0.5, rtol=0)
            assert ours.latent_CTHW.dtype == ours.first_CHW.dtype == torch.float32
            assert {tensor.dtype for tensor in theirs} == {torch.float32}
        assert entry.text_length == len(cached.load(index, caption=True).text_LY)


def test_a_dropped_caption_is_the_cached_empty_one(cache: LatentCache) -> None:
    source = open_cache(cache)
    empty_LY = torch.ones(1, TEXT_WIDTH, dtype=torch.bfloat16)
    assert torch.equal(source.load(0, caption=False).text_LY, empty_LY)
    assert len(source.load(0, caption=True).text_LY) > 1


def test_the_reference_of_an_encoder_that_is_not_causal_is_the_image_latent(clips: Store) -> None:
    encode = encoder(clips, causal=False)
    video = next(clip for clip in share(clips, CONFIG).clips if clip.kind is Kind.VIDEO)
    sample = encode.sample(video)
    x_CTHW = encode.pixels(video)
    expected = torch.nn.functional.avg_pool2d(x_CTHW[:, 0].float() / 127.5 - 1, 8)
    torch.testing.assert_close(sample.first_CHW, expected)
    assert not torch.allclose(sample.first_CHW, sample.latent_CTHW[:, 0])


def test_the_loader_streams_a_cache(cache: LatentCache) -> None:
    loader = Loader(open_cache(cache), CONFIG, patch=2, holdout=2)
    steps: Iterator = loader.steps()
    seen = [
        ordinal for step in islice(steps, 3) for pack in step.packs for ordinal in pack.ordinals
    ]
    assert seen == list(range(len(seen)))
    assert len(loader.validation()) == 2


def test_packs_of_a_cache_hold_captions_as_they_are_stored(cache: LatentCache) -> None:
    """Two bytes a number on every rank's host, with dropped captions between the others."""
    config = CONFIG.model_copy(update={"caption_dropout": 0.5})
    steps: Iterator = Loader(open_cache(cache), config, patch=2).steps()
    packs = [pack for step in islice(steps, 8) for pack in step.packs]
    assert any(1 == min(pack.layout.text_lengths) < max(pack.layout.text_lengths) for pack in packs)
    for pack in packs:
        assert pack.text_MY.dtype == pack.only([0]).text_MY.dtype == torch.bfloat16


def test_records_and_commits_are_read_many_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start of every rank reads all of them."""
    latents, footage = LatentCache(Store(str(tmp_path / "l"))), Store(str(tmp_path / "c"))
    sample = Sample(torch.zeros(3, 1, 8, 8), torch.zeros(1, TEXT_WIDTH), torch.zeros(3, 8, 8))
    latents.begin(META, sample.text_LY)
    for number in range(2 * TOGETHER):
        name = f"{number:02d}"
        latents.commit([Encoded(name, Kind.IMAGE, sample)], {})
        write_clips(footage, f"records/{name}", [fakes.clip(name)])
        done = Commit(task_key=name, source=name, source_sha256=name, records=f"records/{name}")
        add_commit(footage, done)
    read, others = Store.read, threading.Barrier(TOGETHER)

    def wait(self: Store, name: str) -> bytes:
        others.wait(10)
        return read(self, name)

    monkeypatch.setattr(Store, "read", wait)
    assert len(list(latents.commits())) == 2 * TOGETHER
    assert [each.id for each in read_clips(footage)] == [f"{n:02d}" for n in range(2 * TOGETHER)]


@pytest.mark.parametrize("causal", [True, False])
def test_a_clip_comes_by_one_request(
    tmp_path: Path, clips: Store, monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    """Of a hundred thousand shards a rank has no header, and it asks for 200 images a second."""
    opened = open_cache(fill(LatentCache(Store(str(tmp_path))), clips, causal=causal))
    asked: list[str] = []
    read = Store.read_into

    def spy(self: Store, name: str, start: int, *buffers: memoryview) -> int:
        asked.append(name)
        return read(self, name, start, *buffers)

    monkeypatch.setattr(Store, "read_into", spy)
    monkeypatch.setattr(Store, "read_range", None)
    for index in range(len(opened)):
        opened.load(index, caption=index % 2 == 0)
    assert len(asked) == len(opened) == 5


def _older(cache: LatentCache) -> LatentCache:
    """As it would be if it had been begun by a version that did not say where clips lie."""
    for name in cache.store.list("commits"):
        record = caches.Commit.model_validate_json(cache.store.read(f"commits/{name}"))
        text = record.model_dump_json(exclude={"clips": {"__all__": {"start", "crc32"}}})
        cache.store.write(f"commits/{name}", text.encode())
    cache.complete()
    return cache


@pytest.mark.parametrize("causal", [True, False])
def test_older_caches_are_read_by_their_headers(tmp_path: Path, clips: Store, causal: bool) -> None:
    cache = fill(LatentCache(Store(str(tmp_path))), clips, causal=causal)
    new, old = open_cache(cache), open_cache(_older(cache))
    for index in range(len(new)):
        for caption in (True, False):
            ours, theirs = (each.load(index, caption=caption) for each in (new, old))
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_headers_of_a_bounded_number_of_older_shards_are_kept(
    cache: LatentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_HEADERS", 1)
    opened = open_cache(_older(cache))
    gc.collect()
    before = sum(type(each) is Shard for each in gc.get_objects())
    for _ in range(2):
        for index in range(len(opened)):
            opened.load(index, caption=True)
    assert len({commit.shard for commit in cache.commits()}) > 1
    assert sum(type(each) is Shard for each in gc.get_objects()) <= before + 1


def test_a_clip_that_two_attempts_encoded_counts_once(cache: LatentCache, clips: Store) -> None:
    again = encoder(clips).sample(share(clips, CONFIG).clips[0])
    writer = CacheWriter(cache)
    writer.add("i0", Kind.IMAGE, again)
    writer.flush()
    assert len(open_cache(cache)) == 5


def test_an_attempt_that_comes_second_leaves_no_shard(cache: LatentCache, clips: Store) -> None:
    before = cache.store.list("shards")
    encode, records = encoder(clips), share(clips, CONFIG).clips
    writer = CacheWriter(cache)
    for clip in records[:2]:  # the very clips of the first shard
        writer.add(clip.id, clip.kind, encode.sample(clip))
    writer.flush()
    assert cache.store.list("shards") == before


def test_a_cache_knows_what_is_done(cache: LatentCache) -> None:
    encoded = Marks.of(map(mark, ["i0", "i1", "v0", "v1", "v2"]))
    assert cache.done().encoded <= encoded <= cache.done().encoded
    writer = CacheWriter(cache)
    writer.reject("v9", "broken")
    assert (writer.added, writer.rejected, len(cache.done())) == (1, 0, 5)
    writer.flush()
    assert (writer.added, writer.rejected, len(cache.done())) == (1, 1, 6)
    assert cache.done().rejected.has("v9")
    assert cache.done().both.has("i0")
    assert len(open_cache(cache)) == 5


def test_other_encoders_may_not_go_on_with_a_cache(cache: LatentCache) -> None:
    empty = torch.ones(1, TEXT_WIDTH)
    cache.begin(META, 2 * empty)
    assert torch.equal(cache.empty().float(), empty)
    with pytest.raises(ConfigError, match=r"begun with vae v \(now w\)"):
        cache.begin(META.model_copy(update={"vae": "w"}), empty)


def test_latents_beyond_float16_are_refused(cache: LatentCache, clips: Store) -> None:
    sample = encoder(clips).sample(share(clips, CONFIG).clips[0])
    writer = CacheWriter(cache)
    writer.add("huge", Kind.IMAGE, sample._replace(latent_CTHW=sample.latent_CTHW * 1e9))
    with pytest.raises(ConfigError, match=r"clip huge: its latents reach"):
        writer.flush()


def test_caches_that_do_not_fit_are_refused(cache: LatentCache, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latent_channels 3, the model wants 16"):
        open_cache(cache, latent_channels=16)
    with pytest.raises(ConfigError, match=f"text_width {TEXT_WIDTH}, the model wants 64"):
        open_cache(cache, text_width=64)
    with pytest.raises(ConfigError, match="no encoded clips lie there"):
        open_cache(LatentCache(Store(str(tmp_path / "none"))))
    cache.store.delete("complete.json")
    with pytest.raises(ConfigError, match="encoding has not ended, 5 clips are done"):
        open_cache(cache)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_commit_is_named_and_its_clips_are_encoded_again(
    cache: LatentCache, clips: Store, damage: Damage
) -> None:
    whole = open_cache(cache)
    name = f"commits/{cache.store.list('commits')[1]}"
    cache.store.write(name, damage(cache.store.read(name)))
    with pytest.raises(ConfigError, match=re.escape(f"{cache.store.uri}/{name}: its bytes")):
        cache.done()
    assert list(open_cache(cache).entries) == list(whole.entries)  # from the index
    cache.store.delete(name)  # as the message says
    cache.store.delete("complete.json")
    with pytest.raises(ConfigError, match="3 clips are done so far"):
        open_cache(cache)
    encode, writer, encoded = encoder(clips), CacheWriter(cache), cache.done().encoded
    missing = [clip for clip in share(clips, CONFIG).clips if not encoded.has(clip.id)]
    assert len(missing) == 2
    for clip in missing:
        writer.add(clip.id, clip.kind, encode.sample(clip))
    writer.flush()
    cache.complete()
    again = open_cache(cache)
    assert list(again.entries) == list(whole.entries)
    for index in range(len(whole)):
        ours, theirs = (source.load(index, caption=True) for source in (again, whole))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_source_reads_one_index_and_no_commit(
    cache: LatentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand ranks would ask a store for a million commits each."""
    monkeypatch.setattr(LatentCache, "_commit", None)
    assert [entry.id for entry in open_cache(cache).entries] == ["i0", "i1", "v0", "v1", "v2"]


def test_a_damaged_index_is_named_and_made_anew(cache: LatentCache) -> None:
    index = cache.store.read("index.jsonl.gz")
    for place in range(len(index)):
        cache.store.write("index.jsonl.gz", _flipped(index, place))
        if place not in range(3, 10):  # time, system and level in gzip's own header
            assert "index.jsonl.gz: its bytes have changed" in _refused(cache)
    cache.store.write("index.jsonl.gz", index[:-1])
    assert "Start that encode run again" in _refused(cache)
    cache.store.delete("index.jsonl.gz")
    assert "another version of goku wrote it" in _refused(cache)
    cache.complete()
    assert cache.store.read("index.jsonl.gz") == index


def _refused(cache: LatentCache) -> str:
    with pytest.raises(ConfigError) as caught:
        open_cache(cache)
    return str(caught.value)


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_description_of_a_cache_is_named(cache: LatentCache, damage: Damage) -> None:
    cache.store.write("meta.json", damage(cache.store.read("meta.json")))
    with pytest.raises(ConfigError, match=re.escape(f"{cache.store.uri}/meta.json: its bytes")):
        open_cache(cache)


def test_a_curated_set_without_the_kinds_asked_for_is_refused(clips: Store, tmp_path: Path) -> None:
    empty = Store(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"no curated image or video lies there\. Launch curate"):
        share(empty, CONFIG)
    images = DataConfig(height=64, width=64, frames=1, image_share=1)
    assert {clip.kind for clip in share(clips, images).clips} == {Kind.IMAGE}


def test_broken_media_names_the_clip(clips: Store) -> None:
    whole: Clip = share(clips, CONFIG).clips[2]
    cut = whole.model_copy(update={"nbytes": whole.nbytes // 2})
    with pytest.raises(BadMedia, match=rf"clip v0 of memory://films/a\.mp4 in {SHARD}"):
        encoder(clips).pixels(cut)


def test_a_source_does_not_hold_all_commits_at_once(tmp_path: Path) -> None:
    latents = LatentCache(Store(str(tmp_path)))
    latents.begin(META, torch.zeros(1, TEXT_WIDTH))
    for number in range(100):
        clips = tuple(
            CachedClip(id=f"{number}-{n:032x}", kind=Kind.IMAGE, shape=(1, 1, 1), text_length=1)
            for n in range(100)
        )
        record = caches.Commit(shard=f"shards/{number}.safetensors", clips=clips)
        latents.store.write(f"commits/{number}.json", record.model_dump_json().encode())
    latents.complete()
    tracemalloc.start()
    try:
        cached = CachedSource(str(tmp_path), latent_channels=3, text_width=TEXT_WIDTH)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cached) == 10_000
    assert peak < 2.7 * kept
