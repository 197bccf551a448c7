"""Against agents that exploit the model: leaving what the memory knows costs, or ends the episode."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_env.errors import InvalidOptionError


@dataclass(frozen=True)
class Guard:
    """Acts on a step of which the memory knew too little beforehand.

    `info["coverage"]` is the share of a chunk's cells that the memory showed before they were generated; the rest is
    invented. In the true simulator it is 1, so the guard never acts there. `info["guard_acted"]` tells whether it did.

    Attributes:
        min_coverage: the guard acts below this share, in [0, 1].
        penalty: taken from the reward.
        truncate: end the episode, truncated.

    Raises:
        InvalidOptionError: a number out of range, or a guard that does nothing.
    """

    min_coverage: float = 0.25
    penalty: float = 0.0
    truncate: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_coverage <= 1.0:
            raise InvalidOptionError(f"min_coverage is {self.min_coverage}; give a share in [0, 1]")
        if not 0.0 <= self.penalty < float("inf"):
            raise InvalidOptionError(f"penalty is {self.penalty}; give a cost of 0 or more, it is subtracted")
        if not self.truncate and self.penalty == 0.0:
            raise InvalidOptionError("a guard without penalty and truncation does nothing; give one of them")

    def acts(self, coverage: float) -> bool:
        """Check for a step with too little coverage."""
        return coverage < self.min_coverage
