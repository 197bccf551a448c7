"""Moving what was written when better poses or depth become known: a loop closure, another depth scale.

Every token knows the frame, the cell and (through its place) the depth it was written with, so a corrected frame takes
its tokens along: `p = T_world_cam (s d) inv(K_latent) [u + 1/2, v + 1/2, 1]` with the new pose and scale s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.memory.latent import PointMemory
from mirage_env.memory.movers import FARTHEST, Mover
from mirage_env.poses import inverse, rigid
from mirage_env.tokens.blocks import Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack

if TYPE_CHECKING:
    from mirage_env.world_state import WorldState

MemoryT = TypeVar("MemoryT", bound=PointMemory)


@dataclass(frozen=True, eq=False)
class Correction:
    """Corrected pose of a frame, and scale of the depth it was written with.

    Raises:
        InvalidPoseError: not a rigid motion.
        InvalidOptionError: a scale that is not positive and finite.
    """

    T_world_cam: ArrayLike  # [4, 4]
    depth_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_world_cam", rigid(self.T_world_cam))
        if not 0.0 < self.depth_scale < math.inf:
            raise InvalidOptionError(f"depth_scale is {self.depth_scale}; give a positive factor")


def repose(memory: MemoryT, corrections: Mapping[int, Correction]) -> MemoryT:
    """A memory whose tokens have moved with the frames they were written from; features and evidence stay.

    Args:
        memory: the memory; it stays as it was. Blocks without a corrected frame are shared.
        corrections: by number of the frame since the world began (0 is the start view, then one per frame).

    Raises:
        InvalidOptionError: a frame that the memory has not seen, or tokens that do not know their frame (from a cache
            of format version 1).
    """
    if strange := sorted(n for n in corrections if not 0 <= n < memory.frames):
        raise InvalidOptionError(
            f"frames {strange} are unknown; this memory was written from frames 0 to {memory.frames - 1}"
        )
    columns = memory.grid[1]
    return replace(memory, blocks=tuple(_reposed(block, corrections, columns) for block in memory.blocks))


def repose_world(state: WorldState, corrections: Mapping[int, Correction]) -> WorldState:
    """`repose` for a whole world; its camera, references, front and movers move with the frames that saw them (last).

    Raises:
        InvalidOptionError: as `repose`, or a memory of another kind.
    """
    if not isinstance(state.memory, PointMemory):
        raise InvalidOptionError(f"a {type(state.memory).__name__} cannot be re-posed; a LatentMemory or RgbMemory can")
    last = corrections.get(state.memory.frames - 1)
    camera = state.camera if last is None else state.camera.at(last.T_world_cam)
    references = tuple(
        replace(r, camera=r.camera.at(corrections[r.frame].T_world_cam)) if r.frame in corrections else r
        for r in state.references
    )
    moved = camera.T_world_cam @ state.camera.T_cam_world  # the last frames move as one with the last of all
    front = tuple(replace(r, camera=r.camera.at(moved @ r.camera.T_world_cam)) for r in state.front)
    memory = repose(state.memory, corrections)
    movers = tuple(_moved(m, corrections[m.frame]) if m.frame in corrections else m for m in state.movers)
    return replace(state, memory=memory, camera=camera, references=references, front=front, movers=movers)


def _moved(mover: Mover, correction: Correction) -> Mover:
    """The mover where the corrected frame would have seen it, its way there included."""
    new, old, scale = np.asarray(correction.T_world_cam), mover.T_world_cam, correction.depth_scale
    R = scale * new[:3, :3] @ old[:3, :3].T
    places = (mover.track[:, 1:] - old[:3, 3]) @ R.T + new[:3, 3]
    return replace(
        mover,
        offset=(mover.offset @ R.T).astype(np.float32),
        footprint=(scale * mover.footprint).astype(np.float32),
        track=np.hstack([mover.track[:, :1], places]),
        T_world_cam=new,
        free=min(scale * mover.free, FARTHEST),
        portrait=mover.portrait and mover.portrait.moved(R / scale, scale),
    )


def rescaled(memory: MemoryT, factors: Mapping[int, NDArray[np.floating]]) -> MemoryT:
    """A memory whose views see everything so many times as far away: their tokens move along their rays.

    Args:
        memory: the memory; it stays as it was. Blocks without such a view are shared.
        factors: of depth [m, n], of any grid over the picture, by number of the view.
    """
    return replace(memory, blocks=tuple(_rescaled(block, factors, memory.grid) for block in memory.blocks))


def _rescaled(block: MemoryBlock, factors: Mapping[int, NDArray[np.floating]], grid: tuple[int, int]) -> MemoryBlock:
    rows, scale = block.frames.row[block.frame], np.ones(len(block))
    for row in np.intersect1d(rows, list(factors)).tolist():
        own, factor = rows == row, factors[row]
        K = block.frames.K_latent[block.frames.row == row]
        aside = K[0, :2, 2] - K[:, :2, 2]  # of frames at sub-cell shifts, cells
        right, down = aside[(np.cumsum(block.frames.row == row) - 1)[block.frame[own]]].T
        down, right = (block.cell[own] // grid[1] + 0.5 + down, block.cell[own] % grid[1] + 0.5 + right)
        y, x = ((at * n / of).astype(int) for at, n, of in zip((down, right), factor.shape, grid, strict=True))
        scale[own] = factor[y.clip(0, factor.shape[0] - 1), x.clip(0, factor.shape[1] - 1)]
    moved = scale != 1.0
    if not moved.any():
        return block
    lifted = _lifted(block, block.frames.T_world_cam, scale, grid[1])
    return _moved_to(block, np.where(moved[:, None], lifted, block.positions()), scale, block.frames)


def _reposed(block: MemoryBlock, corrections: Mapping[int, Correction], columns: int) -> MemoryBlock:
    rows = block.frames.row
    if not any(int(row) in corrections for row in rows):
        return block
    poses = np.array([_pose(corrections, int(r), T) for r, T in zip(rows, block.frames.T_world_cam, strict=True)])
    scale = np.array([corrections[int(r)].depth_scale if int(r) in corrections else 1.0 for r in rows])[block.frame]
    moved = np.isin(rows, list(corrections))[block.frame]
    positions = np.where(moved[:, None], _lifted(block, poses, scale, columns), block.positions())
    return _moved_to(block, positions, scale, replace(block.frames, T_world_cam=poses))


def _moved_to(
    block: MemoryBlock,
    positions: NDArray[np.float64],  # [N, 3]
    scale: NDArray[np.float64],  # [N] of footprints
    frames: Frames,
) -> MemoryBlock:
    size, values, births, parts = block.footprint * scale.astype(np.float32), block.values(), block.births(), []
    for born in np.unique(births):
        own = births == born
        tokens = Tokens(
            positions[own],
            values[own],
            size[own],
            block.frame[own].astype(np.int64),
            block.cell[own].astype(np.int64),
            frames,
            block.confidence[own],
        )
        parts.append(pack(tokens, int(born), block.features))
    return MemoryBlock.join(parts)


def _pose(corrections: Mapping[int, Correction], row: int, T_world_cam: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(corrections[row].T_world_cam) if row in corrections else T_world_cam


def _lifted(
    block: MemoryBlock,
    poses: NDArray[np.float64],  # [F, 4, 4]
    scale: NDArray[np.float64],  # [N]
    columns: int,
) -> NDArray[np.float64]:  # [N, 3]
    """World coordinates of all tokens from frame, cell and depth, with new poses of the frames and scales of depth."""
    T_cam_world = np.array([inverse(T) for T in block.frames.T_world_cam])
    depth = np.einsum("nk,nk->n", T_cam_world[block.frame, 2, :3], block.positions()) + T_cam_world[block.frame, 2, 3]
    pixels = np.stack([block.cell % columns + 0.5, block.cell // columns + 0.5, np.ones(len(block))], axis=1)
    rays = np.einsum("nij,nj->ni", np.linalg.inv(block.frames.K_latent)[block.frame], pixels)
    in_camera = rays * (depth * scale)[:, None]
    return np.einsum("nij,nj->ni", poses[block.frame, :3, :3], in_camera) + poses[block.frame, :3, 3]
