"""An episode as a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import EpisodeError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Episode:
    """T steps, with T + 1 observations; step t leads from observation t to observation t + 1.

    Attributes:
        observations: by name, [T + 1, ...]; `pixels` is the last frame of each step.
        actions: [T, ...].
        rewards: float64 [T].
        terminated: bool [T].
        truncated: bool [T]; at most the last step has either.
        infos: numbers of `info` by name, [T + 1, ...].
        frames: what `info` and the environment tell of every frame, by name, [N, ...]: `poses` (x, y, z, qw, qx, qy,
            qz), `frame_rewards`, and `images` (uint8 [N, H, W, 3]) where all frames are kept. N is the sum of `counts`.
        counts: int64 [T + 1], frames of the reset and of every step.
        provenance: where the episode comes from; plain JSON values.

    Raises:
        EpisodeError: lengths that do not fit together.
    """

    observations: Arrays
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: Arrays = field(default_factory=dict)
    frames: Arrays = field(default_factory=dict)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps, shown = len(self.rewards), int(self.counts.sum())
        wanted = {"actions": steps, "terminated": steps, "truncated": steps}
        wanted |= {f"{group}/{name}": steps + 1 for group in ("observations", "infos") for name in getattr(self, group)}
        wanted |= {f"frames/{name}": shown for name in self.frames}
        if self.frames:
            wanted["counts"] = steps + 1
        arrays = dict(self.arrays())
        if wrong := [
            f"{n} has {len(arrays[n])} rows, not {rows}" for n, rows in wanted.items() if len(arrays[n]) != rows
        ]:
            raise EpisodeError(f"an episode of {steps} steps and {shown} frames does not fit: {'; '.join(wrong)}")

    def __len__(self) -> int:
        """T, the number of steps."""
        return len(self.rewards)

    def arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """All arrays, named as in a file."""
        for group in ("observations", "infos", "frames"):
            yield from ((f"{group}/{name}", values) for name, values in getattr(self, group).items())
        for name in ("actions", "rewards", "terminated", "truncated", "counts"):
            yield name, getattr(self, name)


def differences(one: Episode, other: Episode) -> list[str]:
    """List the differences of two episodes, a line for each array; none where they are equal to the bit."""
    a, b = dict(one.arrays()), dict(other.arrays())
    lines = [f"{name}: only one of the two has it" for name in sorted(a.keys() ^ b.keys())]
    return lines + [line for name in a if name in b and (line := _difference(name, a[name], b[name]))]


def _difference(name: str, a: NDArray[Any], b: NDArray[Any]) -> str:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{name}: {a.dtype}{list(a.shape)} against {b.dtype}{list(b.shape)}"
    same = np.array([x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)], np.bool_)
    if same.all():
        return ""
    with np.errstate(invalid="ignore"):
        largest = np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)))
    return f"{name}: from row {int((~same).argmax())} of {len(a)} on; largest difference {largest:g}"
