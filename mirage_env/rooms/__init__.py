"""Rooms: a small simulator with exact depth, instances and movers; NumPy and numba only.

The world frame of a room is z up, metres (REP-103); cameras have OpenCV axes.
"""

from mirage_env.rooms.camera_walks import random_walk
from mirage_env.rooms.room import FOV, FRAME_SECONDS, SPLITS, Room, RoomView, start_view, surroundings

__all__ = ["FOV", "FRAME_SECONDS", "SPLITS", "Room", "RoomView", "random_walk", "start_view", "surroundings"]
