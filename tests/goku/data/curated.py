"""A small curated set with real media: two landscape clips, one portrait, two images."""

from goku.contract.checksum import crc32
from goku.contract.store import Store
from goku.curation.shards import Place
from goku.data.records import Clip, Commit, Kind, add_commit, write_clips
from goku.data.video import encode_mp4, encode_png
from tests.footage import shot, texture
from tests.goku.data.fakes import clip

SHARD = "shards/one-000.tar"


def write_curated(store: Store) -> list[Clip]:
    """Write and commit the set in a folder of clips; returns its records, sorted by id."""
    media: list[tuple[str, Kind, int, int, int, bytes]] = []
    for name, height, width, frames in (("v0", 72, 128, 20), ("v1", 72, 128, 9), ("v2", 96, 72, 9)):
        data = encode_mp4(shot(frames, height=height, width=width), fps=12, crf=20)
        media.append((name, Kind.VIDEO, height, width, frames, data))
    for number, (height, width) in enumerate(((72, 128), (80, 80))):
        data = encode_png(texture(height, width, seed=number))
        media.append((f"i{number}", Kind.IMAGE, height, width, 1, data))
    clips, blob = [], b"tar header"
    for name, kind, height, width, frames, data in media:
        place = {"shard": SHARD, **Place(len(blob), len(data), crc32(data))._asdict()}
        rate = 12.0 if kind is Kind.VIDEO else 0.0
        size = {"kind": kind, "height": height, "width": width, "frames": frames, "fps": rate}
        clips.append(clip(name, **place, **size))
        blob += data
    store.write(SHARD, blob)
    records = "records/one.parquet"
    checksum = write_clips(store, records, clips)
    one = Commit(
        task_key="one", source="a", source_sha256="s", records=records, records_crc32=checksum
    )
    add_commit(store, one)
    return sorted(clips, key=lambda record: record.id)
