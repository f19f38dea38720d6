"""Sources that answer late, or that cost the interpreter what requests do."""

import time

from goku.data.encoding import Sample
from goku.data.source import Source

LATENCY_SECONDS, BYTES_PER_SECOND = 0.05, 50e6  # of one read from the slow store
_BYTES = 2  # of a number in the cache
_REQUEST_SECONDS = 0.0012  # of a core, in Python: docs/results/2026-11-24-packs-from-s3.md


class Slow:
    """A Source whose every read answers late and trickles."""

    def __init__(self, source: Source) -> None:
        self._source, self.entries = source, source.entries

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int, *, caption: bool) -> Sample:
        sample = self._source.load(index, caption=caption)
        nbytes = _BYTES * (sample.latent_CTHW.numel() + sample.text_LY.numel())
        time.sleep(LATENCY_SECONDS + nbytes / BYTES_PER_SECOND)
        return sample


class Busy(Slow):
    """A Source whose every read costs the interpreter what a request to S3 does."""

    def load(self, index: int, *, caption: bool) -> Sample:
        until = time.thread_time() + _REQUEST_SECONDS
        while time.thread_time() < until:
            pass
        return self._source.load(index, caption=caption)
