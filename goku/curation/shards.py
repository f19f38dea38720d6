"""Survivors to bytes: cut, encode once, append to a plain tar that any tool reads.

Spans are re-encoded, for a stream copy can only cut at key frames. A record points straight at a
member's bytes, so that reading a clip is one range request.
"""

import tarfile
from collections.abc import Iterable
from io import BytesIO
from typing import NamedTuple

from goku.contract.checksum import crc32
from goku.contract.store import Store, StoreError
from goku.curation.footage import Footage
from goku.curation.stage import Span
from goku.data.records import Kind
from goku.data.video import at_rate, encode_mp4, encode_png, frames

VERSION = 3  # of decoding and encoding, for task keys


class Place(NamedTuple):
    """Where a member's bytes lie in its shard, and their checksum."""

    offset: int
    nbytes: int
    crc32: int


def encode(span: Span, footage: Footage) -> bytes:
    """The span as an mp4 at the source's mean frame rate, or the image as a png.

    Raises BadMedia.
    """
    seen, path, uri = footage.probe, footage.path, footage.uri
    if seen.kind is Kind.IMAGE:
        return encode_png(next(frames(path, name=uri)).image_HWC)
    start, end = span.start_seconds, span.end_seconds
    timed = frames(path, start=start, end=end, name=uri)
    end = min(end, footage.scan.times[-1] + 1 / seen.fps)  # a header may promise more
    images = at_rate(timed, fps=seen.fps, start=start, end=end)
    return encode_mp4(images, fps=seen.fps, crf=footage.config.crf)


def write_shard(store: Store, name: str, members: Iterable[tuple[str, bytes]]) -> list[Place]:
    """Stream `(member name, bytes)` into one tar; where each of them lies. Same input, same bytes.

    Raises StoreError if the store holds another number of bytes than was written.
    """
    places = []
    with store.writer(name) as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                places.append(Place(tar.offset + tarfile.BLOCKSIZE, len(data), crc32(data)))
                tar.addfile(info, BytesIO(data))
        written = stream.tell()
    if store.size(name) != written:
        raise StoreError(
            f"{store.uri}/{name}: {written} bytes were written, the store has {store.size(name)}. "
            "Run again; if it repeats, the store is not to be trusted."
        )
    return places
