"""Views of a memory along many candidate paths at once.

A candidate is a sequence of H actions of `control="relative_pose"`; its path is looked at from the camera at the end of
every chunk, or from several cameras of each. Everything is found when it is first asked for, so a cost pays for what it
uses: poses cost nothing, a view read from the memory about 0.05 ms, a view refined 2.5 ms and a view decoded 3.5 ms of
one core (the shipped model).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import pose_from_vector, screw
from mirage_env.readout.zbuffer import Splat, gather
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

FEELER_GRID = (3, 3)
"""Cells of the narrow view that feels along a step."""


def motions(
    shares: Tensor,  # [..., 6] in [-1, 1]
    max_translation: float,
    max_rotation: float,
    fraction: float = 1.0,
) -> Tensor:  # [..., 4, 4] float64
    """The motion that an action asks for, or the part of it after that fraction of its constant screw.

    The same numbers as `RelativePose` gives, for any number of actions.
    """
    scale = shares.new_tensor([max_translation] * 3 + [max_rotation] * 3, dtype=torch.float64)
    T = pose_from_vector(scale * shares)
    return T if fraction == 1.0 else screw(T, fraction)


def roll_out(
    T_world_cam: Tensor,  # [4, 4] where the paths begin
    actions: Tensor,  # [S, H, 6]
    max_translation: float,
    max_rotation: float,
    looks: int = 1,
) -> Tensor:  # [S, H * looks, 4, 4] float64
    """Cameras of S paths: `looks` of every step, evenly on its screw, the last at its end."""
    here = T_world_cam.double().expand(len(actions), 4, 4)
    poses = []
    for step in actions.unbind(1):
        poses += [here @ motions(step, max_translation, max_rotation, (i + 1) / looks) for i in range(looks)]
        here = poses[-1]
    return torch.stack(poses, 1)


@dataclass(frozen=True, eq=False)
class ImaginedPaths:
    """S candidate paths of L views in one world; the world stays as it is.

    Attributes:
        model, world: what is looked with, and at.
        poses: `T_world_cam` of every view.
        looks: views per step; L = H * looks.
    """

    model: WorldModel
    world: WorldState
    poses: Tensor  # [S, L, 4, 4] float64
    looks: int = 1

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def positions(self) -> Tensor:  # [S, L, 3] float64
        """Camera centres, metres."""
        return self.poses[..., :3, 3]

    @cached_property
    def splat(self) -> Splat:
        """Winner of each cell of all views, S * L of them."""
        K_latent = self.world.camera.K_at(*self.model.config.latent_size)
        return self._memory.glimpse(self.poses.reshape(-1, 4, 4).numpy(), K_latent)

    @property
    def observed(self) -> Tensor:  # [S, L, h, w] bool
        """Cells where the memory shows something."""
        return torch.from_numpy(self.splat.observed).unflatten(0, self.poses.shape[:2])

    @property
    def depth(self) -> Tensor:  # [S, L, h, w]
        """Metres, 0 where nothing is shown."""
        return torch.from_numpy(self.splat.depth).unflatten(0, self.poses.shape[:2])

    @cached_property
    def bare(self) -> Tensor:  # [S, L, C, h, w]
        """Latents as the memory holds them, 0 where it shows nothing."""
        return self._readout.latent.unflatten(0, self.poses.shape[:2])

    @cached_property
    def refined(self) -> Tensor:  # [S, L, C, h, w]
        """Latents put right by the refiner: what planning on images should look at."""
        with torch.inference_mode():
            return self.model.refiner.refine(self._readout).clone().unflatten(0, self.poses.shape[:2])

    @cached_property
    def images(self) -> Tensor:  # [S, L, 3, H, W] in [-1, 1]
        """The refined latents, decoded."""
        with torch.inference_mode():
            return self.model.codec.decode(self.refined.flatten(0, 1)).clone().unflatten(0, self.poses.shape[:2])

    def free(self, body: float) -> Tensor:  # [S, H] metres
        """Free way along each step: to the nearest point of the memory within `body` metres of it, infinite without.

        A narrow view from the beginning of the step to its end looks for points, so the way may lead sideways or back.
        It is a cone, `body` wide where the step ends; points nearer than the model's `near` are not seen.
        """
        ends = self.poses[:, self.looks - 1 :: self.looks]
        starts = torch.cat([torch.tensor(self.world.camera.T_world_cam).expand(len(ends), 1, 4, 4), ends[:, :-1]], 1)
        way = (ends[..., :3, 3] - starts[..., :3, 3]).flatten(0, 1)  # [V, 3]
        length = way.norm(dim=-1)
        T_world_feeler = starts.flatten(0, 1).clone()
        T_world_feeler[:, :3, :3] = _facing(way, T_world_feeler[:, :3, 1])
        h, w = FEELER_GRID
        focal = (length / body).clamp_min(1.0)
        K = torch.zeros(len(way), 3, 3, dtype=torch.float64)
        K[:, 0, 0], K[:, 1, 1], K[:, 2, 2] = focal * w / 2.0, focal * h / 2.0, 1.0
        K[:, 0, 2], K[:, 1, 2] = w / 2.0, h / 2.0
        found = replace(self._memory, grid=FEELER_GRID).glimpse(T_world_feeler.numpy(), K.numpy())
        nearest = np.where(found.observed, found.depth, np.inf).min((1, 2))
        return torch.from_numpy(nearest).unflatten(0, ends.shape[:2])

    def lengths(self) -> Tensor:  # [S, H] metres
        """Straight way of every step."""
        ends = self.positions[:, self.looks - 1 :: self.looks]
        start = torch.tensor(self.world.camera.position).expand(len(ends), 1, 3)
        return torch.cat([start, ends], 1).diff(dim=1).norm(dim=-1)

    def of(self, chosen: Tensor) -> ImaginedPaths:  # [K] indices
        """Some of the paths; what was read for all is not read again."""
        few = replace(self, poses=self.poses[chosen])
        if "splat" in self.__dict__:
            L = self.poses.shape[1]
            views = (chosen[:, None] * L + torch.arange(L)).flatten().tolist()
            few.__dict__["splat"] = self.splat[views]
        return few

    def last(self) -> ImaginedPaths:
        """The same paths, looked at from their last camera only."""
        few = replace(self, poses=self.poses[:, -1:], looks=1)
        if "splat" in self.__dict__:
            L = self.poses.shape[1]
            few.__dict__["splat"] = self.splat[slice(L - 1, None, L)]
        return few

    @property
    def _memory(self) -> LatentMemory:
        memory = self.world.memory
        if not isinstance(memory, LatentMemory):
            raise InvalidOptionError(f"paths are imagined in a LatentMemory; the world has a {type(memory).__name__}")
        return memory

    @cached_property
    def _readout(self) -> Readout:
        found, now = self.splat, self.world.chunk + 1
        if not self._memory.blocks:
            C = self.model.config.latent_channels
            feature, born = np.zeros((*found.block.shape, C), np.float32), np.zeros(found.block.shape, np.int32)
        else:
            feature, born = gather(self._memory.blocks, found)
        observed = torch.from_numpy(found.observed)
        return Readout(
            latent=torch.from_numpy(feature).permute(0, 3, 1, 2),
            observed=observed.float(),
            depth=torch.from_numpy(found.depth),
            offset=torch.from_numpy(found.offset),
            scale=torch.from_numpy(found.scale),
            age=torch.where(observed, now - torch.from_numpy(born), 0).float(),
        )


def _facing(way: Tensor, down: Tensor) -> Tensor:  # [V, 3], [V, 3] -> [V, 3, 3]
    """Rotations whose z axis points along the way; the identity's where there is no way."""
    length = way.norm(dim=-1, keepdim=True)
    z = torch.where(length > 1e-9, way / length.clamp_min(1e-9), torch.tensor([0.0, 0.0, 1.0], dtype=way.dtype))
    x = torch.linalg.cross(down, z)
    # Straight up or down: any direction across will do.
    across = torch.linalg.cross(down.roll(1, -1), z)
    x = torch.where(x.norm(dim=-1, keepdim=True) > 1e-3, x, across)
    x = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.stack([x, torch.linalg.cross(z, x), z], -1)
