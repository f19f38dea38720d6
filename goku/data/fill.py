"""Fill a cache with the clips that no commit names, until all are done or a stop is asked for.

Ranks need not hear of one another: whose a clip is follows from its id and their number, and
whoever finds everything committed after its own last commit declares the cache complete.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from goku.config.errors import ConfigError
from goku.data.cache import CacheWriter, Done, LatentCache
from goku.data.encoding import ClipEncoder, Share
from goku.data.marks import Marks
from goku.data.prefetch import ahead
from goku.data.records import Clip
from goku.data.video import BadMedia


class Watch(Protocol):
    """Who asks for a stop, and hears how many clips are finished and how many durable."""

    def stop_requested(self) -> bool: ...

    def started(self, step: int) -> None: ...

    def finished(self, step: int) -> None: ...

    def durable(self, step: int) -> None: ...


def fill(
    cache: LatentCache, share: Share, *, encoder: ClipEncoder, watch: Watch, depth: int
) -> bool:
    """Encode and commit a rank's missing clips; True once none is missing, False after a stop.

    Clips are decoded `depth` ahead in threads. A clip that cannot be decoded is rejected, and
    named in a commit. Raises ConfigError if that befalls all of all ranks.
    """
    done, writer = cache.done(), CacheWriter(cache)
    both = done.both
    missing = [clip for clip in share.clips if not both.has(clip.id)]
    watch.started(len(done))
    _say(f"{len(missing)} of {len(share.whole)} clips to encode")
    for clip, pixels in _decoded(encoder, missing, depth):
        if watch.stop_requested():
            _flush(writer, done, watch)
            return False
        if isinstance(pixels, BadMedia):
            writer.reject(clip.id, str(pixels))
            _say(f"rejected: {pixels}")
        else:
            writer.add(clip.id, clip.kind, encoder.encode(pixels, clip.caption))
        watch.finished(len(done) + writer.added)
        if writer.due():
            _flush(writer, done, watch)
    _flush(writer, done, watch)
    _complete(cache, done, share.whole, watch)
    return True


def _complete(cache: LatentCache, done: Done, whole: Marks, watch: Watch) -> None:
    """Tell what all ranks have done, and declare the cache complete unless clips are missing."""
    if not whole <= done.both:
        done = cache.done()
    watch.finished(len(done))
    watch.durable(len(done))
    if not whole <= done.both:
        return
    if not done.encoded:
        raise ConfigError(
            f"data.clips, {len(whole)} clips",
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


def _flush(writer: CacheWriter, done: Done, watch: Watch) -> None:
    writer.flush()
    watch.durable(len(done) + writer.added)
    encoded, rejected = len(done.encoded) + writer.encoded, len(done.rejected) + writer.rejected
    _say(f"{encoded} clips encoded, {rejected} rejected")


def _say(line: str) -> None:
    print(f"encode: {line}", flush=True)
