"""Planning in the memory: paths, costs, the policy that plans."""

import importlib
import importlib.util
import math
import sys
import types
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import make
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import picture, start_view, walled_world_model

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.rgb import RgbMemory
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.spaces.actions import RelativePose
from policies.planner.costs import ImageGoal, Images, Novelty, Obstacle, PointGoal, PoseGoal, Staged, Weighted
from policies.planner.image_search import ImageSearch, SearchSettings
from policies.planner.imagined_paths import ImaginedPaths, roll_out
from policies.planner.memory_model import ALL, WALK, MemoryModel
from policies.planner.policy import PlannerPolicy
from policies.planner.solvers import CEM, MPPI

AHEAD, LEFT, TURN = ([0, 0, 1, 0, 0, 0], [-1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0])
NEARLY = 1e-9


@pytest.fixture(scope="module")
def model():
    """The tiny model, which sees a wall 2 to 2.4 m before every camera."""
    return walled_world_model()


@pytest.fixture(scope="module")
def world(model):
    _, state = model.start(picture(), Camera.from_fov(model.config.fov, 32, 32))
    return state


def imagine(model, world, *paths, looks=1):
    """Paths of whole actions, of 1 m and 0.7 rad."""
    return MemoryModel(model, (world,), Novelty(), looks=looks).paths(world, torch.tensor(paths, dtype=torch.float32))


def uniform(*shape, seed=0):
    """Numbers in [-1, 1]."""
    return 2.0 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1.0


def observation(position=(0.0, 0.0, 0.0), **more):
    return {"pixels": picture(), "agent_pos": np.array([*position, 1, 0, 0, 0], np.float32), **more}


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), looks=st.integers(1, 4), scale=st.sampled_from([1.0, 1e-3, 1e-6, 0.0]))
def test_paths_are_those_that_the_environment_would_walk(seed, looks, scale):
    actions = scale * uniform(3, 4, 6, seed=seed)
    start = Camera.from_fov(1.3, 32, 32).moved(pose_from_rotation_vector([1.0, -2.0, 0.5], [0.3, 2.0, -0.4]))
    control, expected = RelativePose(looks, 0.8, 1.1), []
    for path in actions.numpy():
        cameras = [start]
        for action in path:
            cameras += control.cameras(action, cameras[-1])
        expected.append([c.T_world_cam for c in cameras[1:]])
    poses = roll_out(torch.tensor(start.T_world_cam), actions, 0.8, 1.1, looks)
    assert np.allclose(poses.numpy(), expected, atol=1e-7)


def test_a_glimpse_is_what_cameras_would_read(model, world):
    poses = imagine(model, world, *(uniform(70, 2, 6) / 2).tolist()).poses.flatten(0, 1)
    found = world.memory.glimpse(poses.numpy(), world.camera.K_at(4, 4))
    expected = world.memory.splat([world.camera.at(T) for T in poses.numpy()])
    assert np.array_equal(found.observed, expected.observed)
    assert np.allclose(found.depth, expected.depth, atol=1e-5)
    assert found.observed.any()


@pytest.mark.parametrize("stretch", [0.5, 2.0])
def test_a_glimpse_knows_pixels_that_are_not_square(model, world, stretch):
    camera = world.camera
    K_image = np.diag([1.0, stretch, 1.0]) @ camera.K_image
    poses = imagine(model, world, *(uniform(9, 2, 6) / 2).tolist()).poses.flatten(0, 1).numpy()
    views = [Camera(T, K_image, camera.height, camera.width) for T in poses]
    found, expected = world.memory.glimpse(poses, views[0].K_at(4, 4)), world.memory.splat(views)
    assert np.array_equal(found.observed, expected.observed)
    assert np.allclose(found.scale, expected.scale, atol=1e-5)
    square = world.memory.splat([camera.at(T) for T in poses])
    assert not np.array_equal(found.observed, square.observed)


def test_everything_that_is_imagined_is_what_the_model_reads(model, world):
    paths = imagine(model, world, [AHEAD, TURN], [TURN, LEFT])
    cameras = [world.camera.at(T) for T in paths.poses.flatten(0, 1).numpy()]
    readout = world.memory.read(cameras, now=world.chunk + 1)
    with torch.inference_mode():
        refined = model.refiner.refine(readout)
        images = model.codec.decode(refined)
    assert torch.allclose(paths.bare.flatten(0, 1), readout.latent, atol=1e-5)
    assert torch.allclose(paths.refined.flatten(0, 1), refined, atol=1e-4)
    assert torch.allclose(paths.images.flatten(0, 1), images, atol=1e-4)


def test_some_of_the_paths_are_the_same_paths(model, world):
    paths = imagine(model, world, [AHEAD, TURN], [TURN, LEFT], [LEFT, LEFT])
    for read_before in (False, True):
        whole = paths.of(torch.arange(3))
        if read_before:
            _ = whole.splat
        few = whole.of(torch.tensor([2, 0]))
        assert torch.equal(few.depth, paths.depth[[2, 0]])
        assert torch.equal(whole.last().depth, paths.depth[:, -1:])


def test_goals_cost_less_where_they_are_nearer(model, world):
    paths = imagine(model, world, [AHEAD, AHEAD], [AHEAD, LEFT], [LEFT, LEFT])
    cost = PointGoal(torch.tensor([0.0, 0.0, 2.0]))(paths)
    assert cost.diff().gt(0).all()
    assert cost[0] == pytest.approx((1.0 + 0.0) / 2)
    T = torch.eye(4)
    T[2, 3] = 2.0
    assert PoseGoal(T, 0.0)(paths).tolist() == pytest.approx(cost.tolist())
    turned = imagine(model, world, [AHEAD, TURN], [AHEAD, [0] * 6])
    assert (PoseGoal(T, 0.5)(turned) - PoseGoal(T, 0.0)(turned)).tolist() == pytest.approx([0.5 * 0.7 / 2, 0.0])


def test_the_image_of_a_view_costs_least_at_that_view(model, world):
    goal = model.codec.encode(torch.from_numpy(picture()).permute(2, 0, 1)[None] / 127.5 - 1.0)[0].detach()
    stay, away = [[0] * 6], [[0.3, 0, -0.3, 0, 0.5, 0]]
    for refine in (False, True):
        here, there = ImageGoal(goal, refine)(imagine(model, world, stay, away))
        assert here < there


def test_cells_that_nobody_has_seen_are_neutral(model, world):
    behind = imagine(model, world, [[0, 0, 0, 0, 1, 0]] * 4)
    assert not behind.observed[:, -1].any()
    goal = torch.zeros(8, 4, 4)
    assert ImageGoal(goal, unknown=0.7)(behind.last()) == pytest.approx(0.7)
    assert Novelty()(behind.last()) == 0.0
    assert Novelty()(imagine(model, world, [[0] * 6])) > 0.9


def test_a_path_through_a_wall_that_the_memory_shows_costs_more(model, world):
    cost = Obstacle(0.2)
    through, before, aside, back = cost(
        imagine(model, world, [AHEAD] * 3, [AHEAD, LEFT, LEFT], [LEFT] * 3, [[0, 0, -1, 0, 0, 0]] * 3)
    )
    assert through == pytest.approx(1 / 3, abs=0.4)
    assert through > 0.0
    assert before == aside == back == 0.0


def test_a_wall_stops_a_walker_whichever_way_it_looks(model, world):
    sideways = [TURN, TURN, [-math.sin(1.4), 0, math.cos(1.4), 0, 0, 0], [-math.sin(1.4), 0, math.cos(1.4), 0, 0, 0]]
    sideways = [*sideways, sideways[-1]]
    paths = imagine(model, world, sideways)
    assert torch.allclose(paths.positions[0, -1], torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64), atol=1e-6)
    assert Obstacle(0.2)(paths) > 0.0


def test_standing_still_and_climbing_are_no_obstacles(model, world):
    assert Obstacle()(imagine(model, world, [[0] * 6] * 2, [[0, -1, 0, 0, 0, 0]] * 2)).tolist() == [0.0, 0.0]


def test_costs_add_up(model, world):
    paths = imagine(model, world, [AHEAD, TURN], [TURN, LEFT])
    point = PointGoal(torch.ones(3))
    assert torch.allclose(Weighted((2.0, point), (3.0, Novelty()))(paths), 2 * point(paths) + 3 * Novelty()(paths))
    with pytest.raises(ValueError, match="no terms"):
        Weighted()


def test_a_dear_cost_sees_the_best_paths_only_and_decides_among_them(model, world):
    seen = []

    def dear(paths):
        seen.append(len(paths))
        return torch.arange(len(paths), 0, -1).float()

    paths = imagine(model, world, [AHEAD], [TURN], [LEFT], [[0] * 6])
    cheap = PointGoal(torch.tensor([0.0, 0.0, 5.0]))
    cost = Staged(cheap, dear, keep=2)(paths)
    assert seen == [2]
    order = cheap(paths).argsort()
    assert cost[order[:2]].tolist() == pytest.approx((cheap(paths)[order[:2]] + torch.tensor([2.0, 1.0])).tolist())
    assert torch.allclose(cost[order[2:]], cheap(paths)[order[2:]] + 2.0)
    with pytest.raises(ValueError, match="keep is 0"):
        Staged(cheap, dear, keep=0)


def test_a_cost_may_look_at_images(model, world):
    shapes = []

    def bright(images):
        shapes.append(tuple(images.shape))
        return -images.mean((1, 2, 3))

    cost = Images(bright)(imagine(model, world, [AHEAD, TURN], [TURN, LEFT], looks=2))
    assert shapes == [(2, 3, 32, 32)]
    assert torch.isfinite(cost).all()


def test_worlds_and_costs_go_together(model, world):
    other = model.observe(world, picture(1)[None], [world.camera.at(np.diag([-1.0, 1.0, -1.0, 1.0]))])[1]
    goals = [PointGoal(torch.zeros(3)), Novelty()]
    candidates = uniform(2, 5, 3, 3)
    both = MemoryModel(model, (world, other), Novelty(), WALK).get_cost({"costs": goals}, candidates)
    for b, (w, cost) in enumerate(zip((world, other), goals, strict=True)):
        alone = MemoryModel(model, (w,), cost, WALK).get_cost({}, candidates[b : b + 1])
        assert torch.equal(both[b : b + 1], alone)
        given = MemoryModel(model, (world,), cost, WALK).get_cost({"worlds": [w]}, candidates[b : b + 1])
        assert torch.equal(given, alone)


def test_what_does_not_fit_together_is_refused(model, world):
    with pytest.raises(ValueError, match="worlds, samples, steps, components"):
        MemoryModel(model, (world,), Novelty()).get_cost({}, torch.zeros(2, 3, 4, 6))
    with pytest.raises(ValueError, match="planned components"):
        MemoryModel(model, (world,), Novelty(), WALK).get_cost({}, torch.zeros(1, 3, 4, 6))
    for axes in ((), (6,), (1, 1)):
        with pytest.raises(ValueError, match="axes is"):
            MemoryModel(model, (world,), Novelty(), axes)
    with pytest.raises(ValueError, match="looks is 0"):
        MemoryModel(model, (world,), Novelty(), looks=0)


def test_only_latents_are_planned_in(model):
    images = replace(model, memory_factory=RgbMemory.factory(model.codec))
    _, state = images.start(picture())
    with pytest.raises(InvalidOptionError, match="RgbMemory"):
        _ = imagine(images, state, [AHEAD]).splat


def test_an_empty_memory_shows_nothing_and_stops_nobody(model, world):
    empty = replace(world, memory=LatentMemory.empty(model.config))
    paths = imagine(model, empty, [AHEAD, AHEAD])
    assert not paths.observed.any()
    assert not paths.refined.any()
    assert Obstacle()(paths) == 0.0


@pytest.mark.parametrize("solver", [CEM(samples=96, elites=12), MPPI(samples=96)])
def test_the_planner_reaches_a_point_before_the_wall(model, solver):
    env = make("Mirage/PointNav-v0", model=model, start_views=start_view)
    policy = PlannerPolicy(model, solver=solver)
    policy.reset(0)
    view, _ = env.reset(seed=0, options={"goal": [-1.2, 0.0, 1.0]})
    for _ in range(8):
        view, _, done, _, info = env.step(policy.act(view))
        if done:
            break
    assert info["is_success"]
    assert info["spl"] > 0.7


def test_polar_and_cartesian_goals_are_the_same(model):
    goal = np.array([0.6, -0.3, 1.0])
    level = math.hypot(goal[0], goal[2])
    polar = np.array([np.linalg.norm(goal), math.atan2(goal[0], goal[2]), math.atan2(-goal[1], level)])
    actions = []
    for kind, value in (("cartesian", goal), ("polar", polar)):
        policy = PlannerPolicy(model, goal_format=kind)
        actions.append(policy.act(observation(goal=value.astype(np.float32))))
    assert np.allclose(*actions, atol=1e-4)


def test_the_seed_decides_everything(model):
    policy, goal = PlannerPolicy(model), np.array([1.0, 0.0, 1.0], np.float32)

    def run(seed):
        policy.reset(seed)
        return np.stack([policy.act(observation((0.1 * i, 0, 0), goal=goal)) for i in range(3)])

    first = run(1)
    assert np.array_equal(first, run(1))
    assert not np.array_equal(first, run(2))


def test_without_a_goal_it_looks_for_something_new(model, world):
    policy = PlannerPolicy(model)
    action = policy.act(observation())
    assert action.shape == (6,)
    assert (np.abs(action) <= 1.0).all()
    assert not action[[1, 3, 5]].any()
    planned = imagine(model, policy.world, policy_path(policy))
    assert Novelty()(planned) < Novelty()(imagine(model, policy.world, [[0] * 6] * 5))


def policy_path(policy):
    whole = torch.zeros(policy.horizon, 6)
    whole[:, list(policy.axes)] = policy.plan.actions[0]
    return whole.tolist()


def test_a_cost_of_the_users_takes_the_place_of_the_goal(model):
    policy = PlannerPolicy(model, cost=lambda paths: -paths.positions[..., 1].mean(1).float(), axes=ALL)
    assert policy.act(observation(goal=np.zeros(3, np.float32)))[1] > 0.5


def test_the_first_action_makes_the_camera_level(model):
    tilted = Camera.from_fov(1.3, 32, 32).moved(pose_from_rotation_vector([0.0, 0.0, 0.0], [0.28, 0.0, 0.21]))
    view = {**observation(), "agent_pos": tilted.as_vector().astype(np.float32)}
    action = PlannerPolicy(model, up=(0, -1, 0)).act(view)
    after = RelativePose(1).cameras(action, tilted)[0]
    assert np.allclose(after.T_world_cam[:3, 1], [0, 1, 0], atol=1e-5)
    assert np.allclose(after.position, tilted.position)


@pytest.mark.parametrize(
    "arguments", [{"horizon": 0}, {"up": (0, 0, 0)}, {"up": (0, 1)}, {"goal_format": "words"}, {"max_rotation": 0.0}]
)
def test_settings_that_cannot_be_are_refused(model, arguments):
    with pytest.raises(InvalidOptionError, match=next(iter(arguments))):
        PlannerPolicy(model, **arguments)


def test_a_goal_that_is_neither_point_nor_image_is_refused(model):
    with pytest.raises(InvalidOptionError, match="goal has shape"):
        PlannerPolicy(model).act(observation(goal=np.zeros(8, np.float32)))


def test_imagining_the_chosen_chunk_writes_it(model):
    goal = np.array([0.0, 0.0, 1.0], np.float32)
    plain, writing = PlannerPolicy(model), PlannerPolicy(model, imagine=True)
    assert np.array_equal(plain.act(observation(goal=goal)), writing.act(observation(goal=goal)))
    assert plain.world.chunk == 0
    assert writing.world.chunk == 1
    assert len(writing.imagined.frames) == model.config.frames_per_chunk


def test_a_goal_image_is_looked_for_all_around_and_then_approached(model):
    policy = PlannerPolicy(model, search=SearchSettings(proposals=64, keep=8))
    position = np.eye(4)
    for step in range(10):
        camera = Camera.from_fov(1.3, 32, 32, position)
        view = {"pixels": picture(step), "agent_pos": camera.as_vector().astype(np.float32), "goal": picture(2)}
        action = policy.act(view)
        position = RelativePose(1).cameras(action, camera)[0].T_world_cam
        if policy.found is not None:
            break
        assert not np.delete(action, 4).any()
    turned = 2 * math.pi - model.config.fov
    assert step == math.ceil(turned / 0.7)
    assert policy.plan is not None


def test_a_search_finds_the_view_and_gives_up_what_was_refuted(model, world):
    home = torch.tensor(world.camera.T_world_cam)
    goal = world.latents[-1]
    search = ImageSearch(goal, home, SearchSettings(proposals=300, reach=0.8))
    found, later = search.step(model, world, torch.Generator().manual_seed(0))
    exact = ImageGoal(goal, refine=True)(ImaginedPaths(model, world, home[None, None]))
    assert found.cost < float(exact) + 0.1
    again, _ = later.step(model, world, torch.Generator().manual_seed(1))
    assert again.cost <= found.cost + 0.01
    elsewhere, _ = later.refute(found.T_world_cam).step(model, world, torch.Generator().manual_seed(1))
    way = (elsewhere.T_world_cam - found.T_world_cam)[:3, 3].norm()
    angle = (elsewhere.T_world_cam[:3, 2] @ found.T_world_cam[:3, 2]).clamp(-1, 1).acos()
    assert way > 0.35 - NEARLY or angle > 0.35 - NEARLY


def test_moves_that_no_environment_takes_are_scored_as_clipped_and_cost_what_they_exceed(model, world):
    inside = uniform(1, 4, 3, 3)
    outside = inside.clone()
    outside[..., 0, 1] = 1.0
    outside[0, 2:, 0, 1] = torch.tensor([1.5, 3.0])
    planned = MemoryModel(model, (world,), PointGoal(torch.tensor([0.0, 0.0, 2.0])), WALK, beyond=2.0)
    clipped = planned.get_cost({}, outside.clamp(-1.0, 1.0))
    torch.testing.assert_close(planned.get_cost({}, outside) - clipped, torch.tensor([[0.0, 0.0, 1.0, 4.0]]))
    torch.testing.assert_close(planned.criterion({}, outside), planned.get_cost({}, outside))
    with pytest.raises(ValueError, match="NaN"):
        planned.get_cost({}, torch.full((1, 1, 2, 3), torch.nan))
    with pytest.raises(ValueError, match="beyond is -1"):
        MemoryModel(model, (world,), Novelty(), WALK, beyond=-1.0)


@pytest.mark.parametrize("name", ["CEMSolver", "ICEMSolver", "MPPISolver", "PredictiveSamplingSolver"])
def test_solvers_of_stable_worldmodel_plan_with_the_same_costs(model, world, name):
    """The real package where it is installed; its top level, which needs a database and environments, is left out."""
    found = importlib.util.find_spec("stable_worldmodel")
    if found is None or importlib.util.find_spec("loguru") is None:
        pytest.skip("pip install --no-deps stable-worldmodel==0.1.1 loguru")
    package = types.ModuleType("stable_worldmodel")
    package.__path__ = list(found.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "stable_worldmodel", package)
        solvers = importlib.import_module("stable_worldmodel.solver")
        costable = importlib.import_module("stable_worldmodel.solver.solver").Costable
    planned = MemoryModel(model, (world,), PointGoal(torch.tensor([0.5, 0.0, 1.0])), WALK)
    assert all(hasattr(planned, method) for method in ("criterion", "get_cost") if method in dir(costable))
    solver = getattr(solvers, name)(planned, num_samples=64, **({} if name[0] == "P" else {"n_steps": 5, "topk": 8}))
    space = gymnasium.spaces.Box(-1.0, 1.0, (1, 3), np.float32)
    solver.configure(action_space=space, n_envs=1, config=types.SimpleNamespace(horizon=3, action_block=1))
    actions = solver.solve({"pixels": np.zeros((1, 1))})["actions"]
    cost = planned.get_cost({}, actions.reshape(1, 1, 3, 3))
    assert float(cost) < float(planned.get_cost({}, torch.zeros(1, 1, 3, 3)))
    assert float(actions.abs().max()) < 1.3  # the cost of leaving the box keeps it in
