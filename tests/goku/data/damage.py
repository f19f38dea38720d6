"""What may befall the bytes of a JSON record."""

from collections.abc import Callable

Damage = Callable[[bytes], bytes]

DAMAGE: tuple[Damage, ...] = (
    lambda data: b"\xff" * len(data),
    lambda data: data[: len(data) // 2],
    lambda data: b"",
    lambda data: b'{"clips": 3}',  # of another schema
    lambda data: b'{"later": 1,' + data[1:],
)
