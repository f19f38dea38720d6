"""What supervisors say to one another: one JSON object a line, told apart by `type`.

A member says hello and waits for begin; both beat; stopping and failing travel from whoever notices
to the leader and from it to all; ended is a member's last word, end the leader's. Only hello
carries the version: who speaks another one is refused before anything else is said.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from goku.contract.attempts import Attempt
from goku_platform.supervisor.gang import Alarm, Report

VERSION = 1

# No message comes near: a report's text is cut. A stranger's endless line must not fill the memory.
MAX_BYTES = 1 << 16


class Garbage(ValueError):
    """Bytes that are no message of ours."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hello(_Message):
    type: Literal["hello"] = "hello"
    version: int = VERSION
    run: str
    node_rank: int
    nodes: int
    host: str


class Refused(_Message):
    """The answer to a hello that cannot be."""

    type: Literal["refused"] = "refused"
    why: str


class Begin(_Message):
    """All are there. An attempt that is over is to be left at once."""

    type: Literal["begin"] = "begin"
    attempt: Attempt


class Beat(_Message):
    type: Literal["beat"] = "beat"


class Raised(_Message):
    type: Literal["alarm"] = "alarm"
    alarm: Alarm


class Ended(_Message):
    type: Literal["ended"] = "ended"
    report: Report


class End(_Message):
    type: Literal["end"] = "end"
    attempt: Attempt


Message = Hello | Refused | Begin | Beat | Raised | Ended | End
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def encode(message: Message) -> bytes:
    return message.model_dump_json().encode() + b"\n"


class Decoder:
    """Cuts a stream of bytes, as it comes, into messages."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[Message]:
        """Messages that are whole now. Raises Garbage."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if max(map(len, (*lines, self._partial))) > MAX_BYTES:
            raise Garbage(f"a line of more than {MAX_BYTES} bytes")
        try:
            return [_MESSAGE.validate_json(line) for line in lines]
        except ValidationError as error:
            raise Garbage(str(error)) from None
