"""A policy that plans: it keeps a world of its own, made from what it sees, and tries its paths out in there.

It knows nothing but its observations (`pixels`, `agent_pos`, `goal`, and `depth` where there is one), so it works in
the true simulator, in a learned world and on a robot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.fit_view import fit_view
from mirage_env.images import image_tensor
from mirage_env.poses import pose_from_vector
from mirage_env.spaces.actions import RelativePose
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState
from policies.planner.costs import Cost, Novelty, Obstacle, PointGoal, PoseGoal, Weighted
from policies.planner.image_search import Found, ImageSearch, SearchSettings
from policies.planner.memory_model import WALK, MemoryModel
from policies.planner.solvers import CEM, Plan, Solver

Observation = Mapping[str, Any]
STOP_ANGLE = math.radians(15.0)
"""How far it may look away from where the goal image was taken, and still say STOP."""


class PlannerPolicy:
    """Plans in the memory of its own world, and carries out the first action of the plan (`Policy`).

    With a `goal` of three numbers (PointNav) it goes there; with an image (ImageNav) it looks around, searches the
    memory for the view, goes where it is most probable, and crosses out where it has been; without one it goes where
    there is something new to see. Surfaces that the memory shows are kept away from.

    Attributes:
        world: what it has seen so far, or None before the first observation.
        plan: the last plan.
        found: where it believes the goal image to be.
        imagined: the chunk that it imagined for its last action, with `imagine`.

    Args:
        model: the world model.
        cost: what to plan for, in the place of the goal of the observation.
        solver: finds the plan.
        horizon: steps of a plan.
        axes: components of an action to plan (`MemoryModel`); the default stays level and at one height.
        max_translation, max_rotation: of the environment, metres and radians per step.
        up: direction in the world that is up [3]; the first action then makes the camera level. Without it, the first
            camera counts as level.
        goal_format: of PointNav's goal.
        search: how goal images are searched for.
        stop_within: metres from the goal at which it stays where it is, which is how it says STOP; 0: it never does.
        imagine: generate the chunk of the chosen action and write it to the world, so that the frames between two
            observations are filled in; costs a network call per step.

    Raises:
        InvalidOptionError: a step without a size, a horizon without steps, an `up` that is no direction, or an unknown
            format of goals.
    """

    def __init__(
        self,
        model: WorldModel,
        cost: Cost | None = None,
        solver: Solver | None = None,
        horizon: int = 5,
        axes: tuple[int, ...] = WALK,
        max_translation: float = 1.0,
        max_rotation: float = 0.7,
        up: ArrayLike | None = None,
        goal_format: Literal["cartesian", "polar"] = "cartesian",
        search: SearchSettings | None = None,
        imagine: bool = False,
        stop_within: float = 0.25,
    ) -> None:
        self.model, self.cost, self.horizon, self.axes = model, cost, horizon, axes
        self.solver = solver or CEM(samples=128, elites=16, iterations=4)
        self.control = RelativePose(model.config.frames_per_chunk, max_translation, max_rotation)
        self.up = None if up is None else np.asarray(up, np.float64)
        if horizon < 1:
            raise InvalidOptionError(f"horizon is {horizon}; plan at least 1 step")
        if self.up is not None and (self.up.shape != (3,) or not np.linalg.norm(self.up) > 0.0):
            raise InvalidOptionError(f"up is {self.up}; give a direction (x, y, z) of the world, such as (0, 0, 1)")
        if goal_format not in ("cartesian", "polar"):
            raise InvalidOptionError(f"goal_format is {goal_format!r}; choose 'cartesian' or 'polar'")
        self.goal_format, self.settings, self.imagine = goal_format, search or SearchSettings(), imagine
        self.stop_within = stop_within
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Forget the world; everything random comes from the seed."""
        self._generator = torch.Generator().manual_seed(seed or 0)
        self.world: WorldState | None = None
        self.plan: Plan | None = None
        self.found: Found | None = None
        self.imagined: Chunk | None = None
        self._search: ImageSearch | None = None
        self._turned = 0.0

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """See, plan, and give the first action [6].

        Raises:
            InvalidOptionError: a `goal` that is neither a point nor an image.
            InvalidImageError: `pixels` or a goal image of another size than the model's.
            InvalidDepthError: a `depth` of another size, or with values that cannot be.
            InvalidPoseError: an `agent_pos` that is no pose.
        """
        goal = observation.get("goal")
        if not (self.cost or goal is None or np.shape(goal) == (3,) or np.ndim(goal) == 3):
            raise InvalidOptionError(
                f"the goal has shape {np.shape(goal)}; the planner takes a point (3,) or an image (H, W, 3), "
                "or give it a cost"
            )
        first = self.world is None
        world = self._see(observation)
        if first and self.up is not None and (levelling := self._levelling(world.camera, self.up)).any():
            action = levelling
        elif self._arrived(observation, world):
            action, self.found = np.zeros(6, np.float32), None  # if the episode goes on, it was somewhere else
        elif (turn := self._looking_around(observation, world)) is not None:
            action = turn
        else:
            action = self._planned(world, self._cost(observation, world))
        if self.imagine:
            self.imagined, self.world = self.model.step(world, self.control.cameras(action, world.camera))
        return action

    def _see(self, observation: Observation) -> WorldState:
        """Write the view into the world."""
        size = self.model.config.image_size
        pose = pose_from_vector(np.asarray(observation["agent_pos"], np.float64))
        camera = Camera.from_fov(self.model.config.fov, *size, pose)
        pixels, depth = observation["pixels"], observation.get("depth")
        if self.world is None:
            seed = int(torch.randint(2**31, (), generator=self._generator))
            _, self.world = self.model.start(pixels, camera, depth, seed)
        else:
            _, self.world = self.model.observe(
                self.world, pixels[None], [camera], None if depth is None else depth[None]
            )
        return self.world

    def _planned(self, world: WorldState, cost: Cost) -> NDArray[np.float32]:
        model = MemoryModel(
            self.model, (world,), cost, self.axes, self.control.max_translation, self.control.max_rotation
        )
        start = None
        if self.plan is not None:  # the rest of the last plan
            start = torch.cat([self.plan.actions[:, 1:], torch.zeros_like(self.plan.actions[:, :1])], 1)
        self.plan = self.solver.solve(model, {}, (1, self.horizon, len(self.axes)), self._generator, start)
        action: NDArray[np.float32] = model.full(self.plan.actions[0, 0]).numpy()
        return action

    def _arrived(self, observation: Observation, world: WorldState) -> bool:
        """Check whether it is at its goal, as far as it knows, and looks where the goal does."""
        goal, T = observation.get("goal"), world.camera.T_world_cam
        if self.cost is not None or goal is None:
            return False
        if np.ndim(goal) == 1:
            point = self._point(np.asarray(goal, np.float64), world).numpy()
            return bool(np.linalg.norm(point - T[:3, 3]) < self.stop_within)
        if self.found is None or self.found.cost >= self.settings.unknown:
            return False
        there = np.asarray(self.found.T_world_cam)
        near = np.linalg.norm(there[:3, 3] - T[:3, 3]) < self.stop_within
        return bool(near and there[:3, 2] @ T[:3, 2] > math.cos(STOP_ANGLE))

    def _cost(self, observation: Observation, world: WorldState) -> Cost:
        goal = observation.get("goal")
        if self.cost is not None:
            return self.cost
        if goal is None:
            return Weighted((1.0, Novelty()), (2.0, Obstacle()))
        if np.ndim(goal) == 1:
            return Weighted((1.0, PointGoal(self._point(np.asarray(goal, np.float64), world))), (1.0, Obstacle()))
        if self.found is None or self.found.cost >= self.settings.unknown:
            return Weighted((1.0, Novelty()), (2.0, Obstacle()))
        return Weighted((1.0, PoseGoal(self.found.T_world_cam)), (0.5, Obstacle()))

    def _point(self, goal: NDArray[np.float64], world: WorldState) -> Tensor:  # [3]
        """The goal of PointNav in the world."""
        if self.goal_format == "polar":
            distance, azimuth, elevation = goal
            level = distance * math.cos(elevation)
            goal = np.array([level * math.sin(azimuth), -distance * math.sin(elevation), level * math.cos(azimuth)])
        T = world.camera.T_world_cam
        return torch.from_numpy(T[:3, :3] @ goal + T[:3, 3])

    def _looking_around(self, observation: Observation, world: WorldState) -> NDArray[np.float32] | None:
        """Search for the goal image; the next turn on the spot, or None where the search is over or good enough."""
        goal = observation.get("goal")
        if self.cost is not None or goal is None or np.ndim(goal) == 1:
            return None
        here = torch.tensor(world.camera.T_world_cam)
        if self._search is None:
            with torch.inference_mode():
                size = self.model.config.image_size
                picture = fit_view(np.asarray(goal), size).image  # of any camera
                latents = self.model.codec.encode(image_tensor(picture, size))[0]
            self._search = ImageSearch(latents, here, self.settings)
        self._search = self._search.refute(here)
        whole = 2.0 * math.pi - self.model.config.fov
        if self._turned >= whole:
            with torch.inference_mode():
                self.found, self._search = self._search.step(self.model, world, self._generator)
            return None
        turn = min(self.control.max_rotation, whole - self._turned)
        self._turned += turn + 1e-9
        return np.array([0.0, 0.0, 0.0, 0.0, turn / self.control.max_rotation, 0.0], np.float32)

    def _levelling(self, camera: Camera, up_in_world: NDArray[np.float64]) -> NDArray[np.float32]:
        """The turn that makes the camera level, as far as one step can; zeros where it is level."""
        up = camera.T_world_cam[:3, :3].T @ up_in_world  # in the camera, where level is -y
        axis = np.cross([0.0, -1.0, 0.0], up / np.linalg.norm(up))
        sine = float(np.linalg.norm(axis))
        if sine < 1e-3:
            return np.zeros(6, np.float32)
        turn = axis / sine * math.atan2(sine, -up[1]) / self.control.max_rotation
        return np.concatenate([np.zeros(3), turn / max(1.0, float(np.abs(turn).max()))]).astype(np.float32)
