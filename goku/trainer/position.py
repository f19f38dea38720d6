"""Where training stands."""

from dataclasses import dataclass


@dataclass
class Position:
    """Step and samples are in the manifest; what is durable is known when a save has ended."""

    step: int = 0
    samples_seen: int = 0
    durable_step: int = -1  # the last one that the store holds; -1: none known of
