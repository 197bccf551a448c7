"""Buffer of TF transforms: compose them along the tree and interpolate them in time, as tf2 does."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mirage_env.errors import InvalidPoseError
from mirage_env.files import printable
from mirage_env.poses import inverse, screw
from ros_bridge.messages.geometry import transform_from_message
from ros_bridge.messages.message_types import NANO, nanoseconds
from ros_bridge.messages.optical_frames import Matrix

LONGEST_CHAIN = 100
"""Links between a frame and the root; a tree of a robot has about ten."""
LONGEST_GAP = NANO
"""Nanoseconds between two transforms over which a pose is still interpolated."""
MOST_FRAMES = 10_000
HINT = "give T_base_camera, the camera's pose on the body, or publish the transform"


@dataclass
class _Link:
    """Transforms of a frame to its parent, oldest first; a static one holds for all times."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)  # nanoseconds
    transforms: list[Matrix] = field(default_factory=list)  # T_parent_child

    def add(self, stamp: int, T_parent_child: Matrix) -> None:
        i = bisect_left(self.stamps, stamp)
        if i < len(self.stamps) and self.stamps[i] == stamp:
            self.transforms[i] = T_parent_child
        else:
            self.stamps.insert(i, stamp)
            self.transforms.insert(i, T_parent_child)

    def at(self, stamp: int, tolerance: int) -> Matrix | None:
        """`T_parent_child` at a time: interpolated in gaps up to `LONGEST_GAP`, else the nearest within tolerance."""
        if self.static:
            return self.transforms[-1]
        i = bisect_left(self.stamps, stamp)
        if 0 < i < len(self.stamps) and (gap := self.stamps[i] - self.stamps[i - 1]) <= LONGEST_GAP:
            return interpolate(self.transforms[i - 1], self.transforms[i], (stamp - self.stamps[i - 1]) / gap)
        nearest = min((k for k in (i - 1, i) if 0 <= k < len(self.stamps)), key=lambda k: abs(self.stamps[k] - stamp))
        return self.transforms[nearest] if abs(self.stamps[nearest] - stamp) <= tolerance else None


class TransformBuffer:
    """Transforms by child frame.

    Args:
        keep: seconds of history that moving frames keep; None keeps all.
    """

    def __init__(self, keep: float | None = None) -> None:
        self._keep = None if keep is None else round(keep * NANO)
        self._links: dict[str, _Link] = {}

    def add(self, parent: str, child: str, stamp: int, T_parent_child: Matrix, static: bool = False) -> None:
        """Add a transform; a later one of the same stamp replaces it.

        Args:
            parent: name of the frame; a leading slash, as in ROS 1, is left out.
            child: name of the frame in it.
            stamp: nanoseconds; of a static transform it does not matter.
            T_parent_child: [4, 4].
            static: it holds for all times.

        Raises:
            InvalidPoseError: an empty name, a frame that is its own parent, or too many frames.
        """
        parent, child = frame_name(parent), frame_name(child)
        if not parent or not child or parent == child:
            raise InvalidPoseError(f"a transform leads from {child!r} to {parent!r}; give two different names")
        link = self._links.get(child)
        if link is None or link.parent != parent or link.static != static:
            if link is None and len(self._links) >= MOST_FRAMES:
                raise InvalidPoseError(f"transforms have more than {MOST_FRAMES} frames; send those of one robot")
            link = self._links[child] = _Link(parent, static)
        if static:
            link.stamps, link.transforms = [stamp], [T_parent_child]
            return
        link.add(stamp, T_parent_child)
        while self._keep is not None and link.stamps[-1] - link.stamps[0] > self._keep:
            del link.stamps[0], link.transforms[0]

    def add_message(self, message: Any, static: bool = False) -> None:
        """Add all transforms of a `tf2_msgs/TFMessage`.

        Raises:
            InvalidPoseError: one that is no rigid motion, or without names.
        """
        for row in message.transforms:
            T = transform_from_message(row)
            self.add(row.header.frame_id, row.child_frame_id, nanoseconds(row.header.stamp), T, static)

    def chain(self, frame: str) -> list[str]:
        """Frames from one to its root, itself first.

        Raises:
            InvalidPoseError: a loop of frames.
        """
        chain = [frame_name(frame)]
        while (link := self._links.get(chain[-1])) is not None:
            chain.append(link.parent)
            if len(chain) > LONGEST_CHAIN:
                raise InvalidPoseError(
                    f"the transforms of {printable(frame)!r} run in a loop; each frame has one parent"
                )
        return chain

    def moves(self, frame: str) -> bool:
        """Test for a frame that moves against its root."""
        return any(not self._links[child].static for child in self.chain(frame)[:-1])

    def has_moving(self) -> bool:
        """Test for any frame that moves."""
        return any(not link.static for link in self._links.values())

    def stamps(self, frame: str) -> list[int]:
        """Stamps of the slowest moving link between a frame and its root, nanoseconds; none where nothing moves."""
        moving = [self._links[c].stamps for c in self.chain(frame)[:-1] if not self._links[c].static]
        return min(moving, key=lambda stamps: len(stamps)).copy() if moving else []

    def newest(self, frame: str) -> int:
        """Stamp up to which all links between a frame and its root are known, nanoseconds; 0 where nothing moves."""
        moving = [self._links[c].stamps[-1] for c in self.chain(frame)[:-1] if not self._links[c].static]
        return min(moving, default=0)

    def connects(self, target: str, source: str) -> bool:
        """Test for a chain of transforms between two frames."""
        return bool(set(self.chain(target)) & set(self.chain(source)))

    def lookup(self, target: str, source: str, stamp: int, tolerance: float = 0.05) -> Matrix:
        """`T_target_source` at a time, composed along the tree and interpolated (`interpolate`).

        Args:
            target: the frame that points are mapped into.
            source: the frame that they are given in.
            stamp: nanoseconds.
            tolerance: seconds between it and the nearest transform of every moving link.

        Raises:
            InvalidPoseError: no chain of transforms between the two, or none of that time.
        """
        up, down = self.chain(target), self.chain(source)
        common = next((frame for frame in down if frame in up), None)
        if common is None:
            raise InvalidPoseError(
                f"no chain of transforms leads from {printable(source)!r} to {printable(target)!r} (the roots are "
                f"{printable(down[-1])!r} and {printable(up[-1])!r}); {HINT}"
            )
        limit = round(tolerance * NANO)
        T_common_source = self._compose(down[: down.index(common)], stamp, limit)
        T_common_target = self._compose(up[: up.index(common)], stamp, limit)
        return inverse(T_common_target) @ T_common_source

    def _compose(self, frames: Iterable[str], stamp: int, tolerance: int) -> Matrix:
        T = np.eye(4)
        for frame in frames:
            step = self._links[frame].at(stamp, tolerance)
            if step is None:
                raise InvalidPoseError(
                    f"no transform of {printable(frame)!r} is within {tolerance / NANO:g} s of {stamp / NANO:.3f} s; "
                    "record or publish /tf more often, or allow a larger tolerance"
                )
            T = step @ T
        return T


def interpolate(T_a_b: Matrix, T_a_c: Matrix, share: float) -> Matrix:  # [4, 4], [4, 4] -> [4, 4]
    """Pose at that share of the way between two: the position on a line, the rotation on the shortest arc (slerp)."""
    T = np.eye(4)
    T[:3, 3] = (1.0 - share) * T_a_b[:3, 3] + share * T_a_c[:3, 3]
    turn = np.eye(4)
    turn[:3, :3] = T_a_b[:3, :3].T @ T_a_c[:3, :3]
    T[:3, :3] = T_a_b[:3, :3] @ screw(turn, share)[:3, :3]
    return T


def frame_name(name: str) -> str:
    """Name of a frame without the leading slash of ROS 1."""
    return name.removeprefix("/")
