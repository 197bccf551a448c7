"""Walks that come back to poses they had before, exactly, in the free space of a room."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.rooms import Room
from mirage_env.rooms.camera_poses import upright, yaw_pitch
from mirage_env.rooms.camera_walks import WALK_CLEARANCE

FAMILIES = ("out_and_back", "orbit", "look_away")
ALL = "all families"
"""What tables and plots call the mean over the families."""
ATTEMPTS = 200
"""Start views that are tried per walk; the walk gets smaller from one to the next."""
RAMP = 4
"""Frames in which a walk gets up to speed and slows down."""
LEAST_AHEAD = 0.7
"""Closest a camera looks straight at a surface, metres."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class LoopWalk:
    """A start camera, then `frames_per_chunk` cameras per chunk."""

    cameras: tuple[Camera, ...]  # 1 + chunks * frames_per_chunk
    order: tuple[int, ...]
    """Which of the walk's distinct poses each frame has."""
    frames_per_chunk: int

    def chunk_of(self, frame: int) -> int:
        """Chunk that shows a frame; the start view is chunk 0."""
        return (frame + self.frames_per_chunk - 1) // self.frames_per_chunk

    @property
    def revisits(self) -> list[tuple[int, int]]:
        """(first visit, revisit): frames at the same pose, the first in an earlier chunk.

        Frames that repeat a pose of their own chunk are left out: no memory has been written in between.
        """
        first: dict[int, int] = {}
        pairs = []
        for frame, pose in enumerate(self.order):
            visit = first.setdefault(pose, frame)
            if self.chunk_of(visit) < self.chunk_of(frame):
                pairs.append((visit, frame))
        return pairs


def loop_walk(
    family: str,
    room: Room,
    rng: np.random.Generator,
    chunks: int,
    frames_per_chunk: int,
    lap: int,  # frames until the walk is back at its start
    height: int = 128,
    width: int = 128,
) -> LoopWalk:
    """A walk of that family, repeated lap after lap; start and size are drawn from `rng`.

    `out_and_back` walks forward along an arc and backs up the same way; `orbit` goes round an ellipse sideways while
    looking at one point; `look_away` stands and turns by up to 110 degrees and back.

    Raises:
        InvalidOptionError: an unknown family, a lap of fewer than 4 frames, or a room without a free walk.
    """
    if family not in FAMILIES:
        raise InvalidOptionError(f"path family is {family!r}; choose one of {', '.join(FAMILIES)}")
    if lap < 4:
        raise InvalidOptionError(f"a lap has {lap} frames; it needs at least 4")
    frames = 1 + chunks * frames_per_chunk
    if family == "orbit":
        order = [i % lap for i in range(frames)]
        count = lap
    else:
        order = [min(i % lap, lap - i % lap) for i in range(frames)]
        count = lap // 2 + 1
    for attempt in range(ATTEMPTS):
        start = room.start_camera(rng, height, width)
        poses = _POSES[family](room, rng, start, count, 1.0 - 0.7 * attempt / ATTEMPTS)
        if poses is not None:
            cameras = [start] + [start.at(pose) for pose in poses[1:]]
            return LoopWalk(tuple(cameras[i] for i in order), tuple(order), frames_per_chunk)
    raise InvalidOptionError(f"room {room.seed} of split {room.split!r} has no free {family} walk; take another seed")


def _progress(count: int) -> Array:  # [count] from 0 to 1
    """Share of the way at each of `count` poses, with soft ends."""
    steps = count - 1
    k = np.arange(steps)
    speed = np.minimum(1.0, np.minimum(k + 1, steps - k) / RAMP)
    return np.concatenate([[0.0], np.cumsum(speed) / speed.sum()])


def _out(room: Room, rng: np.random.Generator, start: Camera, count: int, size: float) -> list[Array] | None:
    """Forward along an arc."""
    x, y, z = start.position
    yaw, pitch = yaw_pitch(start.T_world_cam)
    way = size * rng.uniform(0.06, 0.11) * (count - 1)
    turn = size * math.radians(rng.uniform(-1.2, 1.2)) * (count - 1)
    poses, last = [], 0.0
    for share in _progress(count):
        heading = yaw + 0.5 * (last + share) * turn
        x, y = x + (share - last) * way * math.cos(heading), y + (share - last) * way * math.sin(heading)
        last = share
        poses.append(upright(x, y, z, yaw + share * turn, pitch))
    return poses if _all_free(room, poses) else None


def _orbit(room: Room, rng: np.random.Generator, start: Camera, count: int, size: float) -> list[Array] | None:
    """Once round an ellipse beside the start, looking at one point ahead; the closing pose is left out."""
    yaw, pitch = yaw_pitch(start.T_world_cam)
    forward, right = np.array([math.cos(yaw), math.sin(yaw)]), np.array([math.sin(yaw), -math.cos(yaw)])
    z = float(start.position[2])
    wide, deep = size * 0.0175 * count * float(rng.choice((-1.0, 1.0))), size * 0.008 * count
    ahead = room.view_distance(start.position[0], start.position[1], yaw, z)
    target = start.position[:2] + forward * float(np.clip(ahead, 1.5, 3.0) + deep)
    poses = []
    for angle in 2.0 * math.pi * np.arange(count) / count:
        x, y = start.position[:2] + wide * math.sin(angle) * right + deep * (1.0 - math.cos(angle)) * forward
        poses.append(upright(x, y, z, math.atan2(target[1] - y, target[0] - x), pitch))
    return poses if _all_free(room, poses) else None


def _look(room: Room, rng: np.random.Generator, start: Camera, count: int, size: float) -> list[Array] | None:
    """A turn on the spot."""
    yaw, pitch = yaw_pitch(start.T_world_cam)
    angle = min(math.radians(110.0), math.radians(3.6) * (count - 1)) * (0.5 + 0.5 * size)
    angle *= float(rng.choice((-1.0, 1.0)))
    x, y, z = start.position
    poses = [upright(x, y, z, yaw + share * angle, pitch) for share in _progress(count)]
    return poses if _all_free(room, poses) else None


def _all_free(room: Room, poses: list[Array]) -> bool:
    for pose in poses:
        x, y, z = pose[:3, 3]
        yaw, _ = yaw_pitch(pose)
        if not room.is_free(pose[:3, 3], WALK_CLEARANCE) or room.view_distance(x, y, yaw, z) < LEAST_AHEAD:
            return False
    return True


_POSES: dict[str, Callable[[Room, np.random.Generator, Camera, int, float], list[Array] | None]] = {
    "out_and_back": _out,
    "orbit": _orbit,
    "look_away": _look,
}
