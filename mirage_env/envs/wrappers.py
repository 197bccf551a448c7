"""Wrappers around the environments of this package."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.files import new_file, sweep_folder
from mirage_env.spaces.observations import PER_FRAME

if TYPE_CHECKING:
    from mirage_env.viz.pictures import VideoWriter


class RepeatResetFrame(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Repeats the one frame of a reset in `info` as often as a step has frames, F.

    Gymnasium's own vector environments (`vectorization_mode="sync"` and `"async"`) stack the arrays of `info` and fail
    where one world was just reset (one row) while another walked (F rows). The native vector environments need no such
    help.

    Args:
        env: an environment of this package, wrapped or not.

    Raises:
        InvalidOptionError: its first step has another number of frames than the others.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        world = self.get_wrapper_attr("world")
        if world.frames_of(0) != world.frames:
            raise InvalidOptionError(
                f"the first step of a world has {world.frames_of(0)} frames, later ones {world.frames}; give the "
                "environment chunk_frames, or use the native vector environment"
            )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; every key of `PER_FRAME` has F rows."""
        observation, info = super().reset(seed=seed, options=options)
        frames = self.get_wrapper_attr("world").frames
        return observation, info | {key: info[key].repeat(frames, axis=0) for key in PER_FRAME if key in info}


class RecordChunks(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Records every frame of every chunk, one mp4 per episode.

    (Gymnasium's `RecordVideo` keeps one frame per step.) Frames go to the file as they come, so a long episode costs no
    memory. The file is finished when the next episode begins or the environment is closed: `episode_0000.mp4` and so
    on; what a killed process had not finished is removed. Files that are there already are kept, and counting goes on
    behind them.

    Args:
        env: an environment of this package, wrapped or not.
        folder: where to write; made if need be.
        fps: frames per second of the video; those of the environment if not given.

    Raises:
        InvalidOptionError: an environment without chunks, or a frame rate that is not positive.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], folder: str | Path, fps: float | None = None) -> None:
        RecordConstructorArgs.__init__(self, folder=str(folder), fps=fps)
        super().__init__(env)
        if not env.has_wrapper_attr("shown_frames"):
            raise InvalidOptionError(
                f"{env} does not show chunks (it has no shown_frames); use Gymnasium's RecordVideo"
            )
        self.fps = float(env.metadata.get("render_fps", 8)) if fps is None else float(fps)
        if not 0.0 < self.fps < float("inf"):
            raise InvalidOptionError(f"fps is {fps}; give a positive number of frames per second")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_folder(self.folder)
        numbers = [int(m[1]) for p in self.folder.iterdir() if (m := re.fullmatch(r"episode_(\d+)\.mp4", p.name))]
        self._episode = max(numbers, default=-1) + 1
        self._video: VideoWriter | None = None
        self._whole = ExitStack()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and finish the video of the episode that this ends."""
        result = super().reset(seed=seed, options=options)
        self.write()
        self._add()
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and write every frame that it shows."""
        result = super().step(action)
        self._add()
        return result

    def write(self) -> Path | None:
        """Finish the video of what was shown since the last one; its path, or None where there is nothing.

        Raises:
            OSError: ffmpeg could not write it.
        """
        if self._video is None:
            return None
        self._video, path = None, self._path()
        self._whole.close()
        self._episode += 1
        return path

    def close(self) -> None:
        """Finish the last video and close the environment."""
        try:
            self.write()
        finally:
            super().close()

    def _add(self) -> None:
        if self._video is None:
            # Starts ffmpeg, which only recording needs.
            from mirage_env.viz.pictures import VideoWriter

            partial = self._whole.enter_context(new_file(self._path()))
            self._video = self._whole.enter_context(VideoWriter(partial, self.fps))
        frames: NDArray[np.uint8] = self.get_wrapper_attr("shown_frames")()
        self._video.write(frames)

    def _path(self) -> Path:
        return self.folder / f"episode_{self._episode:04d}.mp4"
