"""What a run is: typed sections, the checks across them, presets and overrides. Needs no torch."""

from goku.config.errors import ConfigError
from goku.config.run import RunConfig

__all__ = ["ConfigError", "RunConfig"]
