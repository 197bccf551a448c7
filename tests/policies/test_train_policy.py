"""Training goes on after a kill as if nothing had happened, and says what is wrong with its options."""

import gc
import json
import shutil
import time

import gymnasium as gym
import numpy as np
import pytest
import small_training
from clean_processes import clean_processes
from gymnasium.spaces import Box, Dict
from stable_baselines3.common.env_checker import check_env
from task_worlds import rooms_made_once  # noqa: F401 (episodes begin in the same few rooms)

import mirage_env  # noqa: F401 (registers the ids)
from mirage_env.cli import main
from mirage_env.errors import InvalidOptionError, PolicyError
from mirage_env.files import atomic
from mirage_env.tasks import PointNav
from policies.learned import LearnedPolicy, View
from policies.scripted import forward
from policies.training import checkpoints
from policies.training.config import TrainPolicy, twin
from policies.training.evaluation import BLIND, Score, baselines, bootstrap, play, wilson
from policies.training.imitation import teacher
from policies.training.log import draw_curve, read_rows
from policies.training.vec_env import WorldsVecEnv

UNTIMED = ("steps", "episodes", "success", "return", "length", "loss", "entropy", "spread")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".zip", ".npy", ".npz")


def curve(out):
    return np.array([[row[name] for name in UNTIMED] for row in read_rows(out / "log.csv")])


def evaluations(out):
    return json.loads((out / "evaluations.json").read_text())


def weights(out):
    return (out / "policy/policy.safetensors").read_bytes()


@pytest.fixture(scope="module", params=["ppo", "sac"])
def trained(request, tmp_path_factory):
    """A training that nothing interrupted: its algorithm and folder."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    small_training.run(out, algo=request.param)
    return request.param, out


@pytest.fixture
def undrawn(monkeypatch):
    """Where numbers are compared, curves are not drawn after every segment."""
    monkeypatch.setattr("policies.training.train.draw_curve", lambda *_: None)


def test_training_leaves_policy_log_curve_scores_and_provenance(trained):
    _, out = trained
    assert read_rows(out / "log.csv")[-1]["steps"] == small_training.STEPS
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    *scores, blind, random = evaluations(out)
    assert [score["steps"] for score in scores] == [32, small_training.STEPS]
    assert not any("baseline" in score for score in scores)
    assert (blind["baseline"], blind["episodes"]) in [(name, 2) for name in BLIND]
    assert (random["baseline"], random["episodes"]) == ("random_stop", 2)
    run = json.loads((out / "run.json").read_text())
    assert run["options"]["seed"] == 0
    assert {"command", "world_model", "versions", "splits"} <= set(run)
    env = small_training.make_worlds("Rooms/PointNav-v0", 1, "validation")
    LearnedPolicy.load(out / "policy").check(env.single_observation_space, env.single_action_space)


def test_nothing_is_pickled(trained):
    _, out = trained
    files = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in PICKLES or path.read_bytes().startswith((b"PK", b"\x80\x04"))]


@pytest.mark.usefixtures("undrawn")
def test_resumed_training_is_the_uninterrupted_one(trained, tmp_path):
    algo, whole = trained
    out = tmp_path / "run"
    small_training.run(out, algo=algo, steps=16)
    small_training.run(out, algo=algo)
    assert np.array_equal(curve(out), curve(whole), equal_nan=True)
    assert weights(out) == weights(whole)
    assert (
        json.loads((out / "evaluations.json").read_text())[-1]
        == json.loads((whole / "evaluations.json").read_text())[-1]
    )


@pytest.mark.usefixtures("undrawn")
def test_killed_training_resumes_as_if_nothing_had_happened(tmp_path):
    out = tmp_path / "run"
    context = clean_processes()
    process = context.Process(target=small_training.run_for_ever, args=(str(out),))
    process.start()
    try:
        deadline = time.monotonic() + 300
        while len(read_rows(out / "log.csv")) < 4:
            assert process.is_alive()
            assert time.monotonic() < deadline, "the training did not start"
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
        process.close()
    found = checkpoints.latest(out / "checkpoints")
    assert found is not None
    steps = int(found.name) + 16
    small_training.run(out, steps=steps, evaluate_every=0)
    assert [row["steps"] for row in read_rows(out / "log.csv")] == list(range(8, steps + 1, 8))
    small_training.run(tmp_path / "whole", steps=steps, evaluate_every=0)
    assert np.array_equal(curve(out), curve(tmp_path / "whole"), equal_nan=True)
    assert weights(out) == weights(tmp_path / "whole")


def test_resuming_with_other_options_is_refused(trained):
    algo, out = trained
    with pytest.raises(InvalidOptionError, match=r"gamma was 0\.9 and is 0\.5"):
        small_training.run(out, algo=algo, gamma=0.5)


@pytest.mark.usefixtures("undrawn")
def test_imitation_comes_first_counts_and_resumes(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    taught = {"imitate": 32, "evaluate_every": 0, "episodes": 0}
    small_training.run(whole, **taught)
    rows = read_rows(whole / "log.csv")
    assert [row["steps"] for row in rows] == [8, 16, 24, 32, 40, 48]
    assert 0.0 < rows[3]["loss"] < 0.5 * rows[0]["loss"]
    small_training.run(parts, steps=32, **taught)
    policy = LearnedPolicy.load(parts / "policy")
    pixels, goals = np.zeros((32, 32, 3), np.uint8), np.array([[0.5, 0.0, 2.0], [-0.5, 0.0, 2.0]], np.float32)
    right, left = (policy.act({"pixels": pixels, "goal": goal}) for goal in goals)
    assert right[0] > left[0]
    assert min(right[2], left[2]) > 0.5
    small_training.run(parts, **taught)
    assert weights(parts) == weights(whole)


def test_the_teacher_goes_straight_and_stops():
    goals = np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.3], [0.1, 0.0, 0.1]], np.float32)
    actions = teacher(goals, max_translation=1.0, numbers=7)
    assert np.abs(actions).max() <= 1.0
    np.testing.assert_allclose(actions[:, :3], [[0.75, 0.0, 1.0], [0.0, 0.0, 0.3], [0.0, 0.0, 0.0]], atol=1e-6)
    assert (actions[:, 6] > 0.0).tolist() == [False, False, True]
    assert not teacher(goals, 1.0)[2].any()  # STOP, by standing still


def test_a_task_without_a_goal_to_go_to_cannot_be_taught(tmp_path):
    with pytest.raises(PolicyError, match="imitation needs PointNav"):
        small_training.run(tmp_path / "run", imitate=8, observe=("pixels",))


def test_half_a_checkpoint_is_no_checkpoint(trained, tmp_path):
    atomic.beside(tmp_path / "000000016").mkdir()
    assert checkpoints.latest(tmp_path) is None
    _, out = trained
    assert checkpoints.latest(out / "checkpoints").name == f"{small_training.STEPS:09d}"


@pytest.mark.usefixtures("undrawn")
def test_training_killed_at_its_beginning_begins_again(tmp_path, monkeypatch):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with monkeypatch.context() as gone:
        gone.setattr("os.getpid", lambda: 2**22 + 1)  # beyond the largest process number
        for place in ("run/run.json", "run/checkpoints/000000016", "run/policy"):
            atomic.beside(tmp_path / place).mkdir()
    small_training.run(tmp_path / "run", steps=16, episodes=0)
    assert (tmp_path / "run/policy").is_dir()
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_drawn_curve_leaves_nothing_that_waits_for_the_collector(tmp_path):
    """Figures are full of cycles; among the objects of large libraries dozens of them pile up before it looks."""
    rows = [{"steps": 8.0, "success": 0.5, "length": 3.0}]
    draw_curve(tmp_path / "curve.png", rows, [], "warm")
    gc.disable()
    try:
        before = len(gc.get_objects())
        draw_curve(tmp_path / "curve.png", rows, [], "cold")
        assert len(gc.get_objects()) < before + 1000
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "[" * 100_000),
        ("run.json", "[]"),
        ("run.json", '{"options": 3}'),
        ("evaluations.json", "[3]"),
        ("evaluations.json", "NaN"),
    ],
)
def test_damaged_files_of_a_training_are_named(trained, tmp_path, name, content):
    algo, whole = trained
    out = shutil.copytree(whole, tmp_path / "run")
    (out / name).write_text(content)
    with pytest.raises(PolicyError, match=name):
        small_training.run(out, algo=algo)


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(PolicyError, match="something else"):
        small_training.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_adapter_begins_ended_worlds_anew_in_the_same_step():
    worlds = small_training.make_worlds("Rooms/PointNav-v0", 2, "train")
    together = WorldsVecEnv(worlds, View.of(worlds.single_observation_space, ("goal",)))
    together.begin_with([3, 4])
    first = together.reset()["goal"]
    assert not np.array_equal(first[0], first[1])
    for _ in range(3):
        seen, _, done, infos = together.step(np.zeros((2, 6), np.float32))
    assert done.all()
    for i, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        assert np.array_equal(info["terminal_observation"]["goal"], first[i])
        assert not np.array_equal(seen["goal"][i], first[i])
    assert together.tally.taken()["length"] == 3
    together.close()


def test_env_passes_the_checker_of_stable_baselines():
    env = gym.make("Rooms/PointNav-v0", image_size=(64, 64), samples=1, chunk_frames=2)
    check_env(env.unwrapped, warn=False)
    env.close()


def test_episodes_do_not_depend_on_how_many_play_together():
    seeds = range(3)
    episodes = [
        play(small_training.make_worlds("Rooms/PointNav-v0", count, "test"), forward, seeds) for count in (1, 2)
    ]
    assert episodes[0] == episodes[1]
    assert [episode.seed for episode in episodes[0]] == [0, 1, 2]
    assert Score.of(episodes[0]).episodes == 3


def test_the_best_blind_policy_says_stop_as_the_task_wants_it(monkeypatch):
    """Without goals behind the back, standing still where the goal is close is a success of `still` alone."""
    monkeypatch.setattr("policies.training.evaluation.BLIND", ("turn_then_walk", "still"))
    for stop in ("still", "action"):
        task = PointNav(stop=stop, radius=4.5)
        size = {"image_size": (16, 16), "samples": 1, "chunk_frames": 1, "max_episode_steps": 2}
        scores = baselines(gym.make_vec("Rooms/World-v0", num_envs=2, task=task, **size), [0, 1])
        assert list(scores) == ["still", "random_stop"]
        assert scores["still"].success.mean == 1.0


def test_intervals_hold_the_mean_and_shrink():
    # Wilson's interval of 180 of 200, from its formula.
    assert (wilson(180, 200).low, wilson(180, 200).high) == pytest.approx((0.8506, 0.9343), abs=1e-3)
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    few, many = bootstrap([0.0, 1.0] * 5), bootstrap([0.0, 1.0] * 50)
    assert few.low < many.low < many.mean < many.high < few.high
    assert np.isnan(bootstrap([]).mean)


def test_twin_is_the_same_task_in_the_other_world():
    assert twin("Mirage/PointNav-v0") == "Rooms/PointNav-v0"
    assert twin(twin("Mirage/PointNav-v0")) == "Mirage/PointNav-v0"
    assert twin("CartPole-v1") == "CartPole-v1"


class Blind(gym.Env):
    """An environment with nothing that a policy can look at."""

    observation_space = Dict({"depth": Box(0.0, 1.0, (2,))})
    action_space = Box(-1.0, 1.0, (6,))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--env", "Mirage/Nowhere-v0"], "there is no environment 'Mirage/Nowhere-v0'"),
        (["--env", "Blind-v0"], "policies can look at"),
        (["--env", "Rooms/World-v0", "--observe", "goal"], "has no goal"),
    ],
)
def test_wrong_option_is_named(arguments, says, tmp_path, capsys):
    gym.register("Blind-v0", entry_point=Blind)
    try:
        assert main(["train-policy", "--out", str(tmp_path / "run"), *arguments]) == 2
    finally:
        del gym.registry["Blind-v0"]
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gamma": 2.0}, "gamma is 2"),
        ({"worlds": 0}, "worlds is 0"),
        ({"episodes": -1}, "episodes is -1"),
        ({"batch": 1}, "batch is 1"),
        ({"imitate": 8, "algo": "sac"}, "imitation is for algo ppo"),
    ],
)
def test_option_out_of_range_is_refused(change, says, tmp_path):
    with pytest.raises(InvalidOptionError, match=says):
        small_training.options(tmp_path, **change)


def test_unknown_algorithm_is_refused_with_the_choices(tmp_path, capsys):
    assert main(["train-policy", "--out", str(tmp_path), "--algo", "dqn"]) == 2
    assert "ppo" in capsys.readouterr().err
    with pytest.raises(PolicyError, match="ppo, sac"):
        TrainPolicy(tmp_path, algo="dqn")


def test_steps_are_rounded_up_to_whole_segments(tmp_path):
    assert [small_training.options(tmp_path, steps=steps).whole_steps for steps in (1, 16, 17)] == [16, 16, 32]
    assert [small_training.options(tmp_path, steps=steps, imitate=9).whole_steps for steps in (1, 17)] == [10, 26]
