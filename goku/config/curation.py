"""Thresholds of curation. The technical gates are the paper's Table 3.

Scores without a gate here are written to the record and gated later, by a query on the records.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from goku.config.errors import ConfigError
from goku.config.section import Section


class CurationConfig(Section):
    """Technical gates, shot split and clip encoding."""

    min_duration_seconds: float = Field(4.0, ge=0)  # Table 3
    min_side_pixels: int = Field(480, ge=0)  # Table 3: min(height, width)
    min_bitrate_kbps: float = Field(500.0, ge=0)  # Table 3: low bitrate means static or plain
    min_fps: float = Field(23.97, ge=0)  # Table 3 says 24 and accepts 23.976
    min_image_side_pixels: int = Field(256, ge=0)  # the paper gives none for images
    min_clip_seconds: float = Field(1.0, gt=0)  # a shorter shot is dropped; not in the paper
    max_clip_seconds: float = Field(10.0, gt=0)  # paper section 4: clips are capped at 10 s
    shot_threshold: float = Field(3.0, gt=0)  # scenedetect's adaptive ratio
    motion_interval_seconds: float = Field(0.5, gt=0)  # gap of the frame pairs scored
    motion_side_pixels: int = Field(480, ge=8)  # short side of the frames scored; DIS needs 8
    crf: int = Field(18, ge=0, le=51)  # x264 quality of the clips; 18 is visually lossless
    clips_per_shard: int = Field(64, gt=0)
    executor: Literal["local", "ray"] = "local"
    workers: int = Field(2, gt=0)  # processes (local) or tasks at once (ray)

    @model_validator(mode="after")
    def _parts_are_kept(self) -> Self:
        if 2 * self.min_clip_seconds > self.max_clip_seconds:
            raise ConfigError(
                f"curation.min_clip_seconds={self.min_clip_seconds:g}",
                "halves of a shot just over curation.max_clip_seconds="
                f"{self.max_clip_seconds:g} would be too short to keep",
                f"Use at most {self.max_clip_seconds / 2:g}, or raise the maximum.",
            )
        return self
