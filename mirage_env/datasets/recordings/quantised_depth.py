"""Depth that LeRobot keeps in videos: metres as numbers of 12 bits, linear or logarithmic.

`info.json` says of such a feature `is_depth_map`, `video.depth_min`, `video.depth_max`, `video.shift` (metres) and
`video.use_log` (LeRobot 0.6, `DepthEncoderConfig`). The lowest and the highest number are what was clipped there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidDepthError

MOST = 4095
"""Largest number of 12 bits."""


@dataclass(frozen=True)
class Quantisation:
    """Metres of the numbers 0 to `MOST`.

    Raises:
        InvalidDepthError: no range of metres.
    """

    low: float
    high: float
    shift: float
    """Added before the logarithm, metres."""
    logarithmic: bool

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.shift)
        if not all(map(math.isfinite, numbers)) or not 0.0 <= self.low < self.high or self.low + self.shift < 0.0:
            raise InvalidDepthError(
                f"depth is quantised from {self.low} to {self.high} m with a shift of {self.shift} m; give 0 <= "
                "depth_min < depth_max and a shift from 0"
            )
        if self.logarithmic and not self.low + self.shift > 0.0:
            raise InvalidDepthError("depth is quantised by a logarithm from 0 m without a shift, which has no start")

    @staticmethod
    def of(about: Mapping[str, Any], name: str) -> Quantisation:
        """Read what a data set says of a feature.

        Raises:
            InvalidDepthError: numbers that are missing or say no range.
        """
        try:
            low, high, shift = (float(about[f"video.{key}"]) for key in ("depth_min", "depth_max", "shift"))
            return Quantisation(low, high, shift, bool(about["video.use_log"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidDepthError(
                f"{name} is a video of depth whose unit is not told ({error!r}); info.json must give video.depth_min, "
                "video.depth_max, video.shift and video.use_log, as LeRobot writes them; or leave it out: --depth ''"
            ) from error

    def metres(self, numbers: NDArray[np.uint16]) -> NDArray[np.float32]:  # [H, W]
        """Depth of numbers; 0, unknown, where it was clipped."""
        share = np.arange(MOST + 1) / MOST
        if self.logarithmic:
            start, end = math.log(self.low + self.shift), math.log(self.high + self.shift)
            table = np.exp(start + share * (end - start)) - self.shift
        else:
            table = self.low + share * (self.high - self.low)
        table[[0, MOST]] = 0.0
        metres: NDArray[np.float32] = table.astype(np.float32)[np.minimum(numbers, MOST)]
        return metres
