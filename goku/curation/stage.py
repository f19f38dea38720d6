"""What a stage of curation is: a rule from one span of a source to spans, or to reasons against it.

Spans travel between stages, never frames or files: a clip is cut and encoded once, at the end,
and only if it survived. Stages hold settings and no state, so that any process can run them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from goku.curation.footage import Footage


@dataclass(frozen=True)
class Span:
    """[start, end) of a source in seconds, with what is known of it so far. An image is [0, 0)."""

    start_seconds: float
    end_seconds: float
    scores: Mapping[str, float] = field(default_factory=dict)
    caption: str = ""
    tier: str | None = None

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True)
class Rejected:
    """A span that a rule turns away. `reason` is the same few words for all that share it."""

    span: Span
    reason: str
    detail: str  # the numbers


class Stage(Protocol):
    """One rule. `version` is part of every task's identity: raise it when results change."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def splits(self) -> bool:
        """Whether one span may become several; they then tile it without a gap."""
        ...

    def apply(self, span: Span, footage: Footage) -> Sequence[Span | Rejected]:
        """What becomes of `span`: exactly one result, unless the stage splits.

        Raises BadMedia if the source cannot be decoded.
        """
        ...
