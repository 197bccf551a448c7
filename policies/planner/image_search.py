"""Localisation of an image in a world: poses are proposed, and judged by what the memory shows there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mirage_env.poses import rotation_from_vector
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState
from policies.planner.costs import ImageGoal
from policies.planner.imagined_paths import ImaginedPaths


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the search for an image.

    Attributes:
        proposals: poses drawn anew in every search.
        keep: best ones that are looked at more closely, and again in the next search.
        reach: metres from home within which the image may have been taken.
        rounds: metres and radians by which the best poses are varied, one round after the other.
        refined: poses that are looked at through the refiner; the best of them is the answer.
        apart: metres and radians from a refuted pose within which no other is believed.
        unknown: `ImageGoal.unknown`.
    """

    proposals: int = 600
    keep: int = 48
    reach: float = 3.2
    rounds: tuple[tuple[float, float], ...] = ((0.25, 0.2), (0.1, 0.07))
    refined: int = 8
    apart: tuple[float, float] = (0.45, 0.45)
    unknown: float = 0.4


@dataclass(frozen=True, eq=False)
class Found:
    """The most probable pose of an image, and the cost of the view there (`ImageGoal`)."""

    T_world_cam: Tensor  # [4, 4] float64
    cost: float


@dataclass(frozen=True, eq=False)
class ImageSearch:
    """A search that goes on while the memory grows; a value, `step` gives the next one.

    Attributes:
        goal: latents of the image [C, h, w].
        home: level pose whose x and z axes span the ground [4, 4].
        settings: see there.
        hypotheses: poses to look at again [N, 4, 4].
        refuted: poses where the image was not taken [M, 4, 4].
    """

    goal: Tensor
    home: Tensor
    settings: SearchSettings = SearchSettings()
    hypotheses: Tensor = field(default_factory=lambda: torch.zeros(0, 4, 4, dtype=torch.float64))
    refuted: Tensor = field(default_factory=lambda: torch.zeros(0, 4, 4, dtype=torch.float64))

    def refute(self, T_world_cam: Tensor) -> ImageSearch:  # [4, 4]
        """The same search, not believing in that pose and those around it."""
        return replace(self, refuted=torch.cat([self.refuted, T_world_cam.double()[None]]))

    def step(self, model: WorldModel, world: WorldState, generator: torch.Generator) -> tuple[Found, ImageSearch]:
        """Search in a world as it is now."""
        s = self.settings
        poses = torch.cat([self.hypotheses, self._proposals(generator)])
        poses = self._best(model, world, poses)
        for metres, radians in s.rounds:
            varied = poses.repeat_interleave(8, 0) @ _on_ground(
                metres * torch.randn(8 * len(poses), 2, generator=generator),
                radians * torch.randn(8 * len(poses), generator=generator),
            )
            poses = self._best(model, world, torch.cat([poses, varied]))
        few = poses[: s.refined]
        costs = self._costs(model, world, few, refine=True)
        best = int(costs.argmin())
        return Found(few[best], float(costs[best])), replace(self, hypotheses=poses)

    def _proposals(self, generator: torch.Generator) -> Tensor:  # [N, 4, 4]
        """Poses anywhere within reach, evenly over the ground and all directions."""
        radius, direction, yaw = torch.rand(3, self.settings.proposals, generator=generator)
        radius, direction = self.settings.reach * radius.sqrt(), 2.0 * math.pi * direction
        place = torch.stack([radius * direction.cos(), radius * direction.sin()], -1)
        return self.home.double() @ _on_ground(place, 2.0 * math.pi * yaw)

    def _best(self, model: WorldModel, world: WorldState, poses: Tensor) -> Tensor:  # [N, 4, 4] -> [keep, 4, 4]
        costs = self._costs(model, world, poses, refine=False)
        return poses[costs.topk(min(self.settings.keep, len(poses)), largest=False).indices]

    def _costs(self, model: WorldModel, world: WorldState, poses: Tensor, refine: bool) -> Tensor:  # [N]
        views = ImaginedPaths(model, world, poses[:, None])
        costs = ImageGoal(self.goal, refine, self.settings.unknown)(views)
        costs += 10.0 * ((poses[:, :3, 3] - self.home[:3, 3]).norm(dim=-1) > self.settings.reach)
        if not len(self.refuted):
            return costs
        metres, radians = self.settings.apart
        far = torch.cdist(poses[:, :3, 3], self.refuted[:, :3, 3]) > metres
        turned = poses[:, :3, 2] @ self.refuted[:, :3, 2].T < math.cos(radians)
        return torch.where((far | turned).all(1), costs, costs + 10.0)


def _on_ground(place: Tensor, yaw: Tensor) -> Tensor:  # [N, 2] x and z, [N] -> [N, 4, 4] float64
    """Motions along the x and z axes, with a turn about y."""
    T = torch.eye(4, dtype=torch.float64).repeat(len(yaw), 1, 1)
    zero = torch.zeros_like(yaw)
    T[:, :3, :3] = rotation_from_vector(torch.stack([zero, yaw, zero], -1).double())
    T[:, 0, 3], T[:, 2, 3] = place[:, 0].double(), place[:, 1].double()
    return T
