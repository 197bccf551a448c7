"""`mirage play`: a world under the keyboard, through Gymnasium's `play`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, SupportsFloat

import gymnasium
import numpy as np
import tyro
from gymnasium.spaces import Discrete
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mirage_env.commands.checks import require_pictures, saved_world
from mirage_env.commands.walk import World
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.spaces.actions import DiscreteControl

KEYS_HELP = "w s forward and back, a d left and right, j l turn, i k look up and down, space stay; Esc ends"
_KEYS = {
    "w": "forward",
    "s": "back",
    "a": "left",
    "d": "right",
    "j": "turn_left",
    "l": "turn_right",
    "i": "look_up",
    "k": "look_down",
    " ": "stay",
}
WINDOW_SIDE = 640
"""Short side that small images are enlarged to, pixels."""
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]


@dataclass(frozen=True)
class Play:
    """Walk through a world with the keyboard: w s a d walk, i j k l look, Esc ends."""

    world: World = None
    """Go on from this saved world: a folder, a .zip, or the folder of a walk."""
    seed: int = 0
    """Of the start view."""
    env: str = "Mirage/World-v0"
    """The environment; Rooms/World-v0 is the true simulator."""
    model: str = "rooms"
    """A shipped model, a folder, or a hub id."""
    networks: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""
    translation: float = 0.5
    """Share of the longest step that a key walks."""
    rotation: float = 0.5
    """Share of the largest turn that a key turns."""
    record: Folder = None
    """Record every frame to mp4 files in this folder."""


class Keyboard(DiscreteControl):
    """`DiscreteControl` with one more action, which does nothing at all, and a map of keys for `gymnasium.utils.play`.

    A chunk is shown frame by frame: while frames of it are left, `step` shows the next one and takes no new action.
    Reward and flags come with the last frame of the chunk.

    Args:
        env: the environment, with `render_mode="rgb_array"`.
        translation, rotation: as for `DiscreteControl`.
        cache: a saved world for every reset.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        translation: float = 1.0,
        rotation: float = 1.0,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(env, translation, rotation)
        RecordConstructorArgs.__init__(self, translation=translation, rotation=rotation, cache=cache)
        self.nothing = len(self.KEYS)
        self.action_space = Discrete(len(self.KEYS) + 1)
        self._options = None if cache is None else {"cache": str(cache)}
        self._frames: list[NDArray[np.uint8]] = []
        self._last: tuple[Any, SupportsFloat, bool, bool, dict[str, Any]] | None = None

    def get_keys_to_action(self) -> dict[str, int]:
        """Keys of the keyboard and their actions."""
        return {key: self.KEYS.index(name) for key, name in _KEYS.items()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, to the cache where there is one."""
        observation, info = super().reset(seed=seed, options=options or self._options)
        self._frames = list(self.get_wrapper_attr("shown_frames")())
        self._last = (observation, 0.0, False, False, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The next frame; walks on where all were shown.

        Raises:
            ResetNeeded: there is no world yet.
        """
        if self._last is None:
            raise gymnasium.error.ResetNeeded("there is no world yet; call reset first")
        if len(self._frames) > 1:
            self._frames.pop(0)
        elif int(action) != self.nothing:
            self._last = super().step(action)
            self._frames = list(self.get_wrapper_attr("shown_frames")())
        else:
            observation, _, _, _, info = self._last
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self._last
        if len(self._frames) > 1:
            return observation, 0.0, False, False, info
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """The frame that is shown."""
        return self._frames[0].copy()


def run_play(options: Play, callback: Callable[..., Any] | None = None) -> None:
    """Open a window and play until it is closed.

    Args:
        options: of the command.
        callback: as for `gymnasium.utils.play.play`.

    Raises:
        InvalidOptionError: an unknown environment, a cache for the true simulator, or a share out of range.
        MissingPackageError: pygame is not installed.
        StoreError: the cache cannot be used.
    """
    play = _gymnasium_play()
    if options.record is not None:
        require_pictures("--record")
    learned = not options.env.startswith("Rooms/")
    if options.world is not None and not learned:
        raise InvalidOptionError(f"WORLD: {options.env} is no learned world and begins with no cache")
    arguments: dict[str, Any] = {"model": options.networks.load(options.model)} if learned else {}
    try:
        env = gymnasium.make(options.env, render_mode="rgb_array", **arguments)
    except gymnasium.error.UnregisteredEnv as error:
        raise InvalidOptionError(f"--env: {error}") from error
    if options.record is not None:
        from mirage_env.envs.wrappers import RecordChunks

        env = RecordChunks(env, options.record)
    keyboard = Keyboard(env, options.translation, options.rotation, options.world and saved_world(options.world))
    zoom = max(1.0, WINDOW_SIDE / min(env.unwrapped.world.image_size))  # type: ignore[attr-defined]
    fps = round(float(env.metadata["render_fps"]))
    try:
        play(keyboard, fps=fps, zoom=zoom, callback=callback, seed=options.seed, noop=keyboard.nothing)
    finally:
        keyboard.close()


def _gymnasium_play() -> Callable[..., None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pygame imports modules that have been deprecated since
        try:
            from gymnasium.utils.play import play
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
            raise MissingPackageError(
                "playing needs pygame; install it with: pip install 'mirage-env[play]'"
            ) from error
    return play
