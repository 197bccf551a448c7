"""Smooth camera walks through the free space of a room."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.rooms.camera_poses import upright, yaw_pitch
from mirage_env.rooms.room import FOV, Room

Array = NDArray[np.float64]

MAX_TRANSLATION = 0.125
"""Longest way between two frames, metres."""
MAX_TURN = math.radians(4.4)
MAX_TILT = math.radians(0.8)
PITCH_LIMIT = math.radians(12.0)
WALK_CLEARANCE = 0.38

_SEGMENTS = ("forward", "forward", "forward", "strafe", "orbit", "orbit", "look", "back")


def random_walk(
    room: Room, rng: np.random.Generator, frames: int, height: int = 256, width: int = 256, fov: float = FOV
) -> list[Camera]:
    """Cameras of a natural walk: forward, strafing, orbiting, looking around and coming back, in random order.

    Neighbouring cameras are at most 0.13 m and 5 degrees apart, typically half of that; pitch stays within 12 degrees.

    Raises:
        InvalidOptionError: fewer than one frame.
    """
    if frames < 1:
        raise InvalidOptionError(f"frames is {frames}; a walk has at least one")
    start = room.start_camera(rng, height, width, fov)
    yaw, pitch = yaw_pitch(start.T_world_cam)
    states = [np.array([*start.position, yaw, pitch])]
    velocity = np.zeros(5)
    while len(states) < frames:
        kind = _SEGMENTS[int(rng.integers(len(_SEGMENTS)))]
        length = int(rng.integers(8, 26))
        if kind == "back" and len(states) > 12:
            velocity = _come_back(states, rng, length)
        else:
            velocity = _segment(room, rng, states, velocity, kind, length)
    phase = rng.uniform(0.0, 2.0 * math.pi)
    cameras = [start]
    for i, (x, y, z, yaw, pitch) in enumerate(states[1:frames], start=1):
        roll = math.radians(0.4) * (math.sin(0.35 * i + phase) - math.sin(phase))
        cameras.append(start.at(upright(x, y, z, yaw, pitch, roll)))
    return cameras[:frames]


def _come_back(states: list[Array], rng: np.random.Generator, length: int) -> Array:
    """Run back along the way that was walked, speeding up and slowing down; returns the velocity (zero)."""
    way = np.stack(states)
    span = float(min(length, len(states) - 2))
    s, speed = 0.0, 0.0
    travelled: list[Array] = []
    while s < span - 0.05 and len(travelled) < 3 * length:
        speed = min(speed + 0.2, 1.0, max(0.15, 0.35 * (span - s)))
        s = min(s + speed, span)
        at = len(way) - 1 - s
        low = int(at)
        travelled.append(way[low] + (at - low) * (way[min(low + 1, len(way) - 1)] - way[low]))
    states.extend(travelled)
    return np.zeros(5)


def _segment(
    room: Room, rng: np.random.Generator, states: list[Array], velocity: Array, kind: str, length: int
) -> Array:
    """Append `length` states of one manner of walking; returns the last velocity (body x, y, z, yaw, pitch)."""
    side = float(rng.choice((-1.0, 1.0)))
    speed = rng.uniform(0.06, 0.125)
    turn = math.radians(rng.uniform(0.0, 2.2)) * side
    around = rng.uniform(1.2, 3.0)
    if kind == "look":
        speed, turn = 0.0, math.radians(rng.uniform(1.8, 4.0)) * side
    pitch_goal = math.radians(rng.uniform(-11.0, 7.0))
    z_goal = rng.uniform(1.2, 1.6)
    blocked = 0
    for _ in range(length):
        x, y, z, yaw, pitch = states[-1]
        goal = np.zeros(5)
        goal[0] = speed if kind in ("forward", "back") else 0.0
        goal[1] = speed * side if kind in ("strafe", "orbit") else 0.0
        goal[3] = -goal[1] / around if kind == "orbit" else (0.3 * turn if kind == "strafe" else turn)
        goal[2] = np.clip(0.04 * (z_goal - z), -0.008, 0.008)
        goal[4] = np.clip(0.08 * (pitch_goal - pitch), -MAX_TILT, MAX_TILT)
        # A wall ahead: turn to the more open side while there is still way to go.
        ahead = [room.view_distance(x, y, yaw + a) for a in (-0.7, 0.0, 0.7)]
        if min(ahead[1], 1.6 * min(ahead)) < (1.3 if kind == "orbit" else 2.0) or blocked:
            goal[3] = MAX_TURN * (1.0 if ahead[2] >= ahead[0] else -1.0) * (0.6 if ahead[1] > 1.2 else 1.0)
            if velocity[3] * goal[3] < 0.0 and abs(velocity[3]) > math.radians(1.0):
                goal[3] = -goal[3]
            goal[0] *= min(1.0, max(0.0, (ahead[1] - 0.8) / 0.8))
        velocity = velocity + 0.35 * (goal - velocity)
        velocity[3] = np.clip(velocity[3], -MAX_TURN, MAX_TURN)
        velocity[:2] *= min(1.0, MAX_TRANSLATION / max(1e-9, float(np.hypot(velocity[0], velocity[1]))))
        state = _step(room, states[-1], velocity)
        if state is None:
            velocity = velocity * np.array([0.4, 0.4, 1.0, 1.0, 1.0])
            blocked += 1
            state = states[-1] + np.array([0.0, 0.0, 0.0, velocity[3], velocity[4]])
            if blocked == 3:
                side, speed = -side, 0.6 * speed
        state[4] = np.clip(state[4], -PITCH_LIMIT, PITCH_LIMIT)
        states.append(state)
    return velocity


def _step(room: Room, state: Array, velocity: Array) -> Array | None:
    """The next state if its place is free, with a smaller step if need be."""
    forward, left = velocity[0], velocity[1]
    c, s = math.cos(state[3]), math.sin(state[3])
    for share in (1.0, 0.5, 0.2):
        new = state + velocity * np.array([0.0, 0.0, 1.0, 1.0, 1.0])
        new[0] += share * (c * forward - s * left)
        new[1] += share * (s * forward + c * left)
        if room.is_free(new[:3], WALK_CLEARANCE):
            return new
    return None
