"""Memory of a world as a coloured point cloud."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidPointsError
from mirage_env.interfaces import LatentCodec, Memory
from mirage_env.memory.latent import LatentMemory
from mirage_env.viz.pictures import feature_colours
from ros_bridge.outputs.publishers import WorldPublishers
from ros_bridge.player.world_player import WorldPlayer


class MemoryCloud:
    """Publish the memory as a cloud when it has changed and somebody subscribes; its colours take long to decode."""

    def __init__(self, player: WorldPlayer, outputs: WorldPublishers) -> None:
        self._player = player
        self._outputs = outputs
        self._shown: Memory | None = None

    def show(self, stamp: int) -> None:
        """Publish the memory as it is now, nanoseconds.

        Raises:
            InvalidPointsError: a memory that is no `LatentMemory`.
            WorldFailedError: the player is not running.
        """
        memory = self._player.state.memory
        if self._outputs.points_wanted() and memory is not self._shown:
            self._outputs.show_points(*coloured_points(memory, self._player.model.codec), stamp)
            self._shown = memory


class MemoryGrid:
    """Publish the memory as an occupancy grid when it has changed and somebody subscribes."""

    def __init__(self, player: WorldPlayer, outputs: WorldPublishers) -> None:
        self._player = player
        self._outputs = outputs
        self._shown: Memory | None = None

    def show(self, stamp: int) -> None:
        """Publish the memory as it is now, nanoseconds.

        Raises:
            InvalidPointsError: a memory that is no `LatentMemory`.
            WorldFailedError: the player is not running.
        """
        memory = self._player.state.memory
        if self._outputs.grid_wanted() and memory is not self._shown and memory.points:
            self._outputs.show_grid(_latent(memory), stamp)
            self._shown = memory


def points(memory: Memory) -> NDArray[np.float64]:  # [N, 3]
    """Positions of the tokens of a memory in the world, metres.

    Raises:
        InvalidPointsError: a memory that is no `LatentMemory`.
    """
    return np.concatenate([np.zeros((0, 3)), *(block.positions() for block in _latent(memory).blocks)])


def _latent(memory: Memory) -> LatentMemory:
    if not isinstance(memory, LatentMemory):
        raise InvalidPointsError(f"the memory is a {type(memory).__name__}; only a LatentMemory has points to show")
    return memory.surfaces


def coloured_points(
    memory: Memory, codec: LatentCodec
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:  # [N, 3] metres in the world, [N, 3] RGB
    """Positions of the tokens of a memory, and the colours that their features decode to.

    Raises:
        InvalidPointsError: a memory that is no `LatentMemory`.
    """
    positions = points(memory)
    if not len(positions):
        return positions, np.zeros((0, 3), np.uint8)
    return positions, feature_colours(np.concatenate([block.values() for block in _latent(memory).blocks]), codec)
