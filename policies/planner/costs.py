"""Costs of candidate paths (`memory_model.py`): small objects that look at `ImaginedPaths` and give one number each.

A cost of one's own is any function of the paths:

    def dark(paths):  # [S]
        return paths.last().images.mean((1, 2, 3, 4))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from policies.planner.imagined_paths import ImaginedPaths

Cost = Callable[["ImaginedPaths"], Tensor]
"""S paths to S finite numbers; smaller is better."""


@dataclass(frozen=True, eq=False)
class PointGoal:
    """Metres to go to a point of the world, at the mean of all views: a path that arrives early costs less."""

    goal: Tensor  # [3] metres

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        return (paths.positions - self.goal.double()).norm(dim=-1).mean(1).float()


@dataclass(frozen=True, eq=False)
class PoseGoal:
    """Metres to go to a pose, plus `metres_per_radian` for the angle between the viewing directions."""

    T_world_goal: Tensor  # [4, 4]
    metres_per_radian: float = 0.5

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        goal = self.T_world_goal.double()
        way = (paths.positions - goal[:3, 3]).norm(dim=-1)
        angle = (paths.poses[..., :3, 2] @ goal[:3, 2]).clamp(-1.0, 1.0).acos()
        return (way + self.metres_per_radian * angle).mean(1).float()


@dataclass(frozen=True, eq=False)
class ImageGoal:
    """Distance of the best view of a path from an image: the mean squared difference of latents.

    A cell counts no more than `cap`: how much it differs once it differs says nothing (rooms model: the same place read
    from elsewhere and another place are told apart by differences below 0.3). Latents have unit variance.

    Attributes:
        latents: the encoded goal image.
        refine: compare refined latents instead of bare ones, which is better but costs the refiner for every view.
        unknown: what a cell costs that the memory does not show: between one that fits and one that does not.
        cap: most that a cell costs.
    """

    latents: Tensor  # [C, h, w]
    refine: bool = False
    unknown: float = 0.4
    cap: float = 0.5

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        return self.views(paths).amin(1)

    def views(self, paths: ImaginedPaths) -> Tensor:  # [S, L]
        """The cost of every view."""
        shown = paths.refined if self.refine else paths.bare
        error = (shown - self.latents).square_().mean(2).clamp_max(self.cap)
        return torch.where(paths.observed, error, self.unknown).mean((-1, -2))


@dataclass(frozen=True)
class Novelty:
    """Share of cells that the memory already shows, in [0, 1]: small where there is something new to see."""

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        return paths.observed.float().mean((1, 2, 3))


@dataclass(frozen=True)
class Obstacle:
    """Share of the steps from the first one on that comes within `body` metres of a surface that the memory shows.

    What the memory does not show is free.
    """

    body: float = 0.2

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        length = paths.lengths()
        hit = (paths.free(self.body) < length + self.body) & (length > 1e-3)
        return hit.cummax(1).values.float().mean(1)


@dataclass(frozen=True)
class Images:
    """A cost on decoded images, of the last view of every path.

    Attributes:
        judge: images [S, 3, H, W] in [-1, 1] to costs [S].
    """

    judge: Callable[[Tensor], Tensor]

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        return self.judge(paths.last().images[:, 0]).float()


@dataclass(frozen=True)
class Weighted:
    """A weighted sum: `Weighted((1.0, PointGoal(goal)), (5.0, Obstacle()))`."""

    terms: tuple[tuple[float, Cost], ...]

    def __init__(self, *terms: tuple[float, Cost]) -> None:
        if not terms:
            raise ValueError("a weighted sum has no terms; give pairs of weight and cost")
        object.__setattr__(self, "terms", terms)

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        return torch.stack([weight * cost(paths) for weight, cost in self.terms]).sum(0)


@dataclass(frozen=True)
class Staged:
    """A cheap cost for all paths and a dear one for the best of them, added up.

    The others get the worst dear cost that was found, so none wins by not having been looked at.

    Attributes:
        cheap: such as `Weighted` of poses and depths.
        dear: such as `ImageGoal(refine=True)`, or `Images`.
        keep: number of paths that the dear cost sees.

    Raises:
        ValueError: it would see none.
    """

    cheap: Cost
    dear: Cost
    keep: int = 32

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}; the dear cost has to see at least one path")

    def __call__(self, paths: ImaginedPaths) -> Tensor:  # [S]
        first = self.cheap(paths)
        best = first.topk(min(self.keep, len(first)), largest=False).indices
        second = self.dear(paths.of(best))
        cost = first + second.max()
        cost[best] = first[best] + second
        return cost
