"""Recording as subscribers: wrappers that pass everything through and keep a note of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mirage_env.datasets.zip_arrays import ENDING
from mirage_env.episodes.episode import Episode
from mirage_env.episodes.episode_files import save_episode
from mirage_env.errors import InvalidOptionError

CHUNK_KEYS = ("frames", "frame_depth", "frame_labels", "frame_poses", "intrinsics")
"""What `info_frames` adds to `info`; not kept, because it is large or told by the rest."""
FRAME_KEYS = ("poses", "frame_rewards")
"""Keys of `info` with a row per frame."""


@dataclass
class _Notes:
    """The episode in progress."""

    observations: list[Mapping[str, NDArray[Any]]] = field(default_factory=list)
    infos: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    frames: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    steps: list[tuple[NDArray[Any], float, bool, bool]] = field(default_factory=list)

    def episode(self, provenance: Mapping[str, Any]) -> Episode:
        """Put what was recorded together."""
        actions, rewards, terminated, truncated = zip(*self.steps, strict=True)
        return Episode(
            observations=_stacked(self.observations),
            actions=np.stack(actions),
            rewards=np.array(rewards, np.float64),
            terminated=np.array(terminated, np.bool_),
            truncated=np.array(truncated, np.bool_),
            infos=_stacked(self.infos),
            frames={name: np.concatenate([f[name] for f in self.frames]) for name in self.frames[0]},
            counts=np.array(self.counts, np.int64),
            provenance=dict(provenance),
        )


class RecordEpisodes(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Hands over every episode when it has ended, when the next one begins, or when the environment is closed.

    An episode without a step is left out. A step that raises ends nothing and is not recorded.

    Args:
        env: an environment of this package, wrapped or not.
        sink: takes the episodes; or a folder, where they are written to `episode_000000.zarr.zip` and so on, behind
            those that are there.
        all_frames: keep the image of every frame, not only the last of each step.
        provenance: plain JSON values that every episode carries; the environment's id comes on top.

    Raises:
        InvalidOptionError: an environment without chunks.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        sink: Callable[[Episode], object] | str | Path,
        all_frames: bool = False,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, sink=sink, all_frames=all_frames, provenance=provenance)
        super().__init__(env)
        if not env.has_wrapper_attr("shown_frames"):
            raise InvalidOptionError(f"{env} does not show chunks (it has no shown_frames)")
        self._sink = sink if callable(sink) else _to_folder(Path(sink))
        self._all_frames = all_frames
        self.provenance = {"env": None if env.spec is None else env.spec.id, **(provenance or {})}
        self._notes: _Notes | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, hand over the episode that this ends, and begin the next."""
        observation, info = super().reset(seed=seed, options=options)
        self.hand_over()
        self._notes = _Notes()
        self.provenance["seed"] = seed
        self._note(observation, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and note it."""
        given = np.array(action)
        observation, reward, terminated, truncated, info = super().step(action)
        if self._notes is not None:
            self._notes.steps.append((given, float(reward), terminated, truncated))
            self._note(observation, info)
            if terminated or truncated:
                self.hand_over()
        return observation, reward, terminated, truncated, info

    def hand_over(self) -> None:
        """Give what was recorded to the sink, if there is any."""
        notes, self._notes = self._notes, None
        if notes is not None and notes.steps:
            self._sink(notes.episode(self.provenance))

    def close(self) -> None:
        """Hand over the last episode and close the environment."""
        try:
            self.hand_over()
        finally:
            super().close()

    def _note(self, observation: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        if self._notes is None:
            return
        self._notes.observations.append({name: np.array(value) for name, value in observation.items()})
        per_frame = {name: np.array(info[name]) for name in FRAME_KEYS if name in info}
        others = {n: np.array(v) for n, v in info.items() if n not in per_frame and n not in CHUNK_KEYS}
        self._notes.infos.append({name: value for name, value in others.items() if value.dtype.kind in "biuf"})
        if self._all_frames:
            per_frame["images"] = self.get_wrapper_attr("shown_frames")()
        self._notes.frames.append(per_frame)
        self._notes.counts.append(len(next(iter(per_frame.values()))))


class CountEpisodes(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Counts what happens, for a log line or a progress bar.

    Attributes:
        counts: `episodes` that ended, `successes` among them, `steps`, and the `rewards` summed over all steps.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.counts: dict[str, float] = {"episodes": 0, "successes": 0, "steps": 0, "rewards": 0.0}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and count it."""
        result = super().step(action)
        _, reward, terminated, truncated, info = result
        self.counts["steps"] += 1
        self.counts["rewards"] = math.fsum([self.counts["rewards"], float(reward)])
        if terminated or truncated:
            self.counts["episodes"] += 1
            self.counts["successes"] += bool(info.get("is_success", False))
        return result


def _to_folder(folder: Path) -> Callable[[Episode], object]:
    pattern = rf"episode_(\d+){re.escape(ENDING)}"
    folder.mkdir(parents=True, exist_ok=True)
    there = [int(m[1]) for path in folder.iterdir() if (m := re.fullmatch(pattern, path.name))]
    numbers = iter(range(max(there, default=-1) + 1, 10**9))
    return lambda episode: save_episode(folder / f"episode_{next(numbers):06d}{ENDING}", episode)


def _stacked(rows: list[Any]) -> dict[str, NDArray[Any]]:
    """Rows of named arrays as arrays by name; what some rows lack, or have in another shape, is left out."""
    names = [n for n in rows[0] if all(n in row and row[n].shape == rows[0][n].shape for row in rows)]
    return {name: np.stack([row[name] for row in rows]) for name in names}
