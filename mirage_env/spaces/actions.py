"""Actions: where the camera of a chunk goes.

A step shows F new frames. A control turns one action into F cameras, in the axes of the camera (x right, y down,
z forward). All three are exact: the last camera is the one that was asked for, and nothing is clipped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera, between
from mirage_env.errors import InvalidActionError, InvalidOptionError, InvalidPoseError
from mirage_env.poses import pose_from_rotation_vector, pose_from_vector

Numbers = NDArray[np.float64]

POSITION_LIMIT = 1000.0
"""Largest coordinate a camera may have, metres: float32 still resolves a tenth of a millimetre there."""
ROUNDING = 1e-5
"""How far beyond a bound an action may lie and still count as on it."""
MAX_ROTATION_LIMIT = math.pi / math.sqrt(3.0)
"""Three components of this size make half a turn; beyond it the way between two cameras is ambiguous."""

MOTION = ("translation x", "translation y", "translation z", "rotation x", "rotation y", "rotation z")
_POSE = ("x", "y", "z", "qw", "qx", "qy", "qz")


class PoseBox(Box):
    """Poses (x, y, z, qw, qx, qy, qz) on the last axis; the quaternion is of unit length."""

    def __init__(self, shape: tuple[int, ...] = (7,), seed: int | np.random.Generator | None = None) -> None:
        high = np.broadcast_to(np.array([POSITION_LIMIT] * 3 + [1.0] * 4, np.float32), shape)
        super().__init__(-high, high.copy(), dtype=np.float32, seed=seed)

    def sample(self, mask: None = None, probability: None = None) -> NDArray[np.float32]:
        """A pose with position and direction drawn evenly."""
        pose = super().sample(mask, probability).astype(np.float32)
        quaternion = self.np_random.standard_normal((*self.shape[:-1], 4))
        pose[..., 3:] = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
        return pose

    def contains(self, x: Any) -> bool:
        """Check for the shape, type and bounds of the box, and for unit quaternions within 1 %."""
        return super().contains(x) and bool(
            (np.abs(np.linalg.norm(np.asarray(x)[..., 3:], axis=-1) - 1.0) <= 1e-2).all()
        )


@batch_space.register(PoseBox)
def _batch_pose_box(space: PoseBox, n: int = 1) -> PoseBox:
    # A copy, as Gymnasium does for a `Box`: batching draws nothing from the single space.
    return PoseBox((n, *space.shape), seed=copy.deepcopy(space.np_random))


class Control(Protocol):
    """Control of the camera: an action space, and the cameras that an action stands for."""

    @property
    def space(self) -> Box:
        """A new action space."""
        ...

    def cameras(self, action: ArrayLike, camera: Camera, frames: int | None = None) -> list[Camera]:
        """The cameras of the chunk that the action asks for, starting after `camera`: F, or `frames`.

        Raises:
            InvalidActionError: wrong shape, not finite, or outside the space.
        """
        ...


@dataclass(frozen=True)
class RelativePose:
    """`control="relative_pose"`: the last camera of the chunk in the frame of the current one.

    Attributes:
        frames: F.
        max_translation: metres that 1 means, for each of x, y, z.
        max_rotation: radians that 1 means, for each component of the rotation vector.

    Raises:
        InvalidOptionError: a size that is not positive, or a rotation above `MAX_ROTATION_LIMIT`.
    """

    frames: int
    max_translation: float = 1.0
    max_rotation: float = 0.7

    def __post_init__(self) -> None:
        _check_reach(self.max_translation, self.max_rotation)

    @property
    def space(self) -> Box:  # (6,)
        """Translation and rotation vector, as shares of the largest."""
        return Box(-1.0, 1.0, (6,), np.float32)

    def cameras(self, action: ArrayLike, camera: Camera, frames: int | None = None) -> list[Camera]:
        """Cameras on a constant screw (`Control.cameras`)."""
        share = check_action(action, self.space, MOTION)
        motion = pose_from_rotation_vector(self.max_translation * share[:3], self.max_rotation * share[3:])
        return between(camera, camera.moved(motion), frames or self.frames)


@dataclass(frozen=True)
class Waypoints:
    """`control="waypoints"`: one pose per new frame, each in the frame of the one before.

    1 means a share 1 / F of `max_translation` and `max_rotation`, so a chunk reaches as far as with `RelativePose`.
    """

    frames: int
    max_translation: float = 1.0
    max_rotation: float = 0.7

    def __post_init__(self) -> None:
        _check_reach(self.max_translation, self.max_rotation)

    @property
    def space(self) -> Box:  # (F, 6)
        """Translation and rotation vector of every frame, as shares of the largest."""
        return Box(-1.0, 1.0, (self.frames, 6), np.float32)

    def cameras(self, action: ArrayLike, camera: Camera, frames: int | None = None) -> list[Camera]:
        """F cameras, one per row (`Control.cameras`); never another number."""
        shares = check_action(action, self.space, MOTION) / self.frames
        path = [camera]
        for share in shares:
            motion = pose_from_rotation_vector(self.max_translation * share[:3], self.max_rotation * share[3:])
            path.append(path[-1].moved(motion))
        return path[1:]


@dataclass(frozen=True)
class AbsolutePose:
    """`control="absolute_pose"`: the last camera of the chunk in the world, (x, y, z, qw, qx, qy, qz)."""

    frames: int

    @property
    def space(self) -> PoseBox:  # (7,)
        """Poses in the world; metres and a unit quaternion."""
        return PoseBox()

    def cameras(self, action: ArrayLike, camera: Camera, frames: int | None = None) -> list[Camera]:
        """Cameras on a constant screw (`Control.cameras`); the quaternion is normalised."""
        vector = check_action(action, self.space, _POSE)
        try:
            pose = pose_from_vector(vector)
        except InvalidPoseError as error:
            raise InvalidActionError(f"the action is no pose: {error}") from error
        return between(camera, camera.at(pose), frames or self.frames)


CONTROLS = ("relative_pose", "absolute_pose", "waypoints")
"""Names that `make_control` knows."""


def make_control(name: str, frames: int, max_translation: float = 1.0, max_rotation: float = 0.7) -> Control:
    """The control of that name for chunks of `frames` new frames.

    Args:
        name: one of `CONTROLS`.
        frames: F.
        max_translation: metres per chunk, for each axis; not used by `absolute_pose`.
        max_rotation: radians per chunk, for each axis; not used by `absolute_pose`.

    Raises:
        InvalidOptionError: an unknown name, or a size out of range.
    """
    if name == "relative_pose":
        return RelativePose(frames, max_translation, max_rotation)
    if name == "waypoints":
        return Waypoints(frames, max_translation, max_rotation)
    if name == "absolute_pose":
        return AbsolutePose(frames)
    raise InvalidOptionError(f"control is {name!r}; choose one of {', '.join(CONTROLS)}")


def check_action(action: ArrayLike, space: Box, names: Sequence[str]) -> Numbers:
    """The action as float64, checked against the bounds of `space`.

    Args:
        action: anything that becomes an array of the shape of the space.
        space: its bounds; a value beyond one by `ROUNDING` or less is put on it.
        names: what the components along the last axis mean, for the message.

    Raises:
        InvalidActionError: no numbers, the wrong shape, NaN or infinite, or outside the bounds.
    """
    try:
        values = np.asarray(action)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths; a tensor with a gradient
        raise InvalidActionError(f"the action is no array ({error}); give {_described(space)}") from error
    if values.dtype.kind not in "fiu":
        raise InvalidActionError(f"the action has type {values.dtype}; give numbers, {_described(space)}")
    if values.shape != space.shape:
        raise InvalidActionError(f"the action has shape {values.shape}; give {_described(space)}")
    values = values.astype(np.float64)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    wrong = ~np.isfinite(values) | (values < low - ROUNDING) | (values > high + ROUNDING)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InvalidActionError(
            f"action[{', '.join(map(str, index))}] ({names[index[-1]]}) is {values[index]:g}; it must lie in "
            f"[{low[index]:g}, {high[index]:g}] ({int(wrong.sum())} of {values.size} components are outside): "
            "scale or clip the action, the environment does neither"
        )
    return np.clip(values, low, high)


class DiscreteControl(gymnasium.ActionWrapper, RecordConstructorArgs):
    """Keys instead of a continuous action, for an environment with `control="relative_pose"`.

    Actions are indices into `DiscreteControl.KEYS`. Turning and looking are about the axes of the camera.

    Args:
        env: the environment.
        translation: share of `max_translation` that a key moves by, in (0, 1].
        rotation: share of `max_rotation` that a key turns by, in (0, 1].

    Raises:
        InvalidOptionError: another control, or a share out of range.
    """

    KEYS: ClassVar[tuple[str, ...]] = (
        "stay",
        "forward",
        "back",
        "left",
        "right",
        "turn_left",
        "turn_right",
        "look_up",
        "look_down",
    )
    _COMPONENT: ClassVar[dict[str, tuple[int, float]]] = {
        "forward": (2, 1.0),
        "back": (2, -1.0),
        "left": (0, -1.0),
        "right": (0, 1.0),
        "turn_left": (4, -1.0),
        "turn_right": (4, 1.0),
        "look_up": (3, 1.0),
        "look_down": (3, -1.0),
    }

    def __init__(self, env: gymnasium.Env[Any, Any], translation: float = 1.0, rotation: float = 1.0) -> None:
        RecordConstructorArgs.__init__(self, translation=translation, rotation=rotation)
        super().__init__(env)
        if env.action_space != Box(-1.0, 1.0, (6,), np.float32):
            raise InvalidOptionError(
                f"DiscreteControl needs control='relative_pose'; the action space is {env.action_space}"
            )
        for name, value in (("translation", translation), ("rotation", rotation)):
            if not 0.0 < value <= 1.0:
                raise InvalidOptionError(f"{name} is {value}; give a share above 0 and at most 1")
        self.translation, self.rotation = translation, rotation
        self.action_space = Discrete(len(self.KEYS))

    def action(self, action: Any) -> NDArray[np.float32]:
        """The relative pose of a key.

        Raises:
            InvalidActionError: not an integer from 0 to the number of keys.
        """
        key = np.asarray(action)
        if key.shape != () or key.dtype.kind not in "iu" or not 0 <= int(key) < len(self.KEYS):
            keys = ", ".join(f"{i} {name}" for i, name in enumerate(self.KEYS))
            raise InvalidActionError(f"the action is {action!r}; choose one of {keys}")
        share = np.zeros(6, np.float32)
        if int(key):
            index, sign = self._COMPONENT[self.KEYS[int(key)]]
            share[index] = sign * (self.translation if index < 3 else self.rotation)
        return share


def _check_reach(max_translation: float, max_rotation: float) -> None:
    if not 0.0 < max_translation <= POSITION_LIMIT:
        raise InvalidOptionError(f"max_translation is {max_translation}; give metres in (0, {POSITION_LIMIT:g}]")
    if not 0.0 < max_rotation <= MAX_ROTATION_LIMIT:
        raise InvalidOptionError(f"max_rotation is {max_rotation}; give radians in (0, {MAX_ROTATION_LIMIT:.4f}]")


def _described(space: Box) -> str:
    """The bounds of a space in one phrase."""
    if isinstance(space, PoseBox):
        return "7 numbers x, y, z (metres), qw, qx, qy, qz"
    return f"numbers of shape {space.shape} in [{space.low.min():g}, {space.high.max():g}]"
