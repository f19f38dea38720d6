"""Fill a cache with the clips that no commit names, until all are done or a stop is asked for.

Ranks need not hear of one another: whose a clip is follows from its id and their number, and
whoever finds everything committed after its own last commit declares the cache complete.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from goku.config.errors import ConfigError
from goku.data.cache import CacheWriter, LatentCache
from goku.data.encoding import ClipEncoder
from goku.data.prefetch import ahead
from goku.data.records import Clip
from goku.data.stream import unit
from goku.data.video import BadMedia


class Watch(Protocol):
    """Who asks for a stop, and hears how many clips are finished and how many durable."""

    def stop_requested(self) -> bool: ...

    def started(self, step: int) -> None: ...

    def finished(self, step: int) -> None: ...

    def durable(self, step: int) -> None: ...


def fill(
    cache: LatentCache,
    clips: Sequence[Clip],
    *,
    encoder: ClipEncoder,
    watch: Watch,
    depth: int,
    rank: int = 0,
    ranks: int = 1,
) -> bool:
    """Encode and commit this rank's missing clips; True once none is missing, False after a stop.

    Clips are decoded `depth` ahead in threads. A clip that cannot be decoded is rejected, and
    named in a commit. Raises ConfigError if that befalls all of all ranks.
    """
    writer = CacheWriter(cache)
    done = writer.done
    missing = [clip for clip in _share(clips, rank, ranks) if clip.id not in done]
    watch.started(writer.committed)
    _say(f"{len(missing)} of {len(clips)} clips to encode")
    for clip, pixels in _decoded(encoder, missing, depth):
        if watch.stop_requested():
            _flush(writer, watch)
            return False
        if isinstance(pixels, BadMedia):
            writer.reject(clip.id, str(pixels))
            _say(f"rejected: {pixels}")
        else:
            writer.add(clip.id, clip.kind, encoder.encode(pixels, clip.caption))
        watch.finished(writer.committed + writer.waiting)
        if writer.due():
            _flush(writer, watch)
    _flush(writer, watch)
    _complete(cache, writer, clips, watch)
    return True


def _share(clips: Sequence[Clip], rank: int, ranks: int) -> list[Clip]:
    return [clip for clip in clips if int(unit("encode", clip.id) * ranks) == rank]


def _complete(cache: LatentCache, writer: CacheWriter, clips: Sequence[Clip], watch: Watch) -> None:
    """Tell what all ranks have done, and declare the cache complete unless clips are missing."""
    wanted = {clip.id for clip in clips}
    known = writer if wanted <= writer.done else CacheWriter(cache)
    watch.finished(known.committed)
    watch.durable(known.committed)
    if not wanted <= known.done:
        return
    if not known.encoded:
        raise ConfigError(
            f"data.clips, {len(clips)} clips",
            "not one of them could be decoded",
            "Its shards are damaged: curate the footage again under another run name.",
        )
    cache.complete()


def _decoded(
    encoder: ClipEncoder, clips: Sequence[Clip], depth: int
) -> Iterator[tuple[Clip, Tensor | BadMedia]]:
    """Each clip with its pixels, or with what is wrong with it."""

    def attempt(clip: Clip) -> tuple[Clip, Tensor | BadMedia]:
        try:
            return clip, encoder.pixels(clip)
        except BadMedia as error:
            return clip, error

    return ahead(attempt, clips, depth=depth)


def _flush(writer: CacheWriter, watch: Watch) -> None:
    writer.flush()
    watch.durable(writer.committed)
    _say(f"{len(writer.encoded)} clips encoded, {len(writer.rejected)} rejected")


def _say(line: str) -> None:
    print(f"encode: {line}", flush=True)
