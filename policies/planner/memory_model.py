"""Planning inside a world model: candidates are scored in what a memory shows, and nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState
from policies.planner.costs import Cost
from policies.planner.imagined_paths import ImaginedPaths, roll_out
from policies.planner.solvers import Info

WALK = (0, 2, 4)
"""Components of an action that keep a level camera level and at its height: to the right, ahead, turn to the right."""
ALL = (0, 1, 2, 3, 4, 5)


@dataclass(frozen=True, eq=False)
class MemoryModel:
    """The memories of B worlds as something to plan in (`solvers.CostModel`, and stable-worldmodel's `Costable`).

    `info` may hold `"worlds"` and `"costs"`, B of each, in the place of the attributes; a solver passes it on unread.

    Attributes:
        model: the networks; only the refiner and the codec are used, and only by costs that want latents or images.
        worlds: B worlds; they stay as they are.
        cost: of a path (`costs.py`).
        axes: the components of an action that are planned, D of them; the others are 0.
        max_translation, max_rotation: of the environment, metres and radians per step.
        looks: views per step.
        beyond: solvers of other libraries propose components outside [-1, 1], which no environment takes. They are
            scored as clipped, and every unit that they lie outside costs this much, summed over steps and components.

    Raises:
        ValueError: a component that is none, or a number of views below 1.
    """

    model: WorldModel
    worlds: Sequence[WorldState]
    cost: Cost
    axes: tuple[int, ...] = ALL
    max_translation: float = 1.0
    max_rotation: float = 0.7
    looks: int = field(default=1, kw_only=True)
    beyond: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.axes or not set(self.axes) <= set(ALL) or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes is {self.axes}; give different components of an action, from 0 to 5")
        if self.looks < 1:
            raise ValueError(f"looks is {self.looks}; every step is looked at at least once, at its end")
        if not self.beyond >= 0.0:
            raise ValueError(f"beyond is {self.beyond}; give a cost of 0 or more, or actions outside would be rewarded")

    @torch.inference_mode()
    def get_cost(
        self,
        info: Info,
        candidates: Tensor,  # [B, S, H, D]
    ) -> Tensor:  # [B, S]
        """Cost of every candidate.

        Raises:
            ValueError: not B worlds and costs, actions of another size than `axes`, or that are not finite.
            InvalidOptionError: a world whose memory does not hold latents.
        """
        B, _, _, D = candidates.shape
        worlds = info.get("worlds", self.worlds)
        costs = info.get("costs", [self.cost] * len(worlds))
        if not len(worlds) == len(costs) == B or len(self.axes) != D:
            raise ValueError(
                f"candidates have shape {tuple(candidates.shape)}, with {len(worlds)} worlds, {len(costs)} costs and "
                f"{len(self.axes)} planned components; give [worlds, samples, steps, components]"
            )
        if not bool(torch.isfinite(candidates).all()):
            raise ValueError("candidates hold NaN or infinite actions; a solver that diverges needs smaller steps")
        taken = candidates.clamp(-1.0, 1.0)
        scored = zip(costs, worlds, taken, strict=True)
        cost = torch.stack([cost(self.paths(world, actions)) for cost, world, actions in scored])
        return cost + self.beyond * (candidates - taken).abs().sum((-1, -2))

    def criterion(self, info: Info, candidates: Tensor) -> Tensor:  # [B, S, H, D] -> [B, S]
        """Cost of every candidate, under stable-worldmodel's other name for `get_cost`."""
        return self.get_cost(info, candidates)

    def paths(self, world: WorldState, actions: Tensor) -> ImaginedPaths:  # [S, H, D]
        """Cameras that candidates lead to in a world."""
        start = torch.tensor(world.camera.T_world_cam)
        poses = roll_out(start, self.full(actions), self.max_translation, self.max_rotation, self.looks)
        return ImaginedPaths(self.model, world, poses, self.looks)

    def full(self, actions: Tensor) -> Tensor:  # [..., D] -> [..., 6]
        """Planned components as whole actions."""
        whole = torch.zeros(*actions.shape[:-1], 6)
        whole[..., list(self.axes)] = actions
        return whole
