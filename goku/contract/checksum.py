"""CRC-32 as in zlib, gzip and PNG (ISO 3309), by ISA-L: four times as fast as zlib's own.

The one place that says who computes it: every byte of a checkpoint goes through here once when it
is saved and once when it is loaded.
"""

from isal import isal_zlib


def crc32(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """The checksum of `data`, or of what `value` is the checksum of and then `data`."""
    return isal_zlib.crc32(data, value)
