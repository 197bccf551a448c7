"""Ranks of policies in two worlds: the arithmetic, the policies that are told the goal, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_worlds import (
    rooms,
    rooms_made_once,  # noqa: F401
)

from mirage_env.commands.agreement_plot import _ranges
from mirage_env.commands.compare_policies import PLANNERS, TOLD, PoliciesEval, compare_policies
from mirage_env.errors import InvalidOptionError
from mirage_env.rooms.env import RoomsEnv
from mirage_env.tasks import ImageNav, PointNav
from policies.agreement import Agreement, Outcome, spearman
from policies.compass import Compass
from policies.learned import LearnedPolicy, NetworkConfig, View, build_network

numbers = st.lists(st.floats(-5, 5), min_size=3, max_size=8, unique=True)


def outcomes(success, contacts=(0, 0), coverage=0.9):
    """Of policies by name: successes in the learned and in the true world, one per episode."""
    return [
        Outcome(policy, world, seed, bool(won), float(won), 3, contacts[side], coverage if side == 0 else 1.0)
        for policy, sides in success.items()
        for side, (world, values) in enumerate(zip(("Mirage", "Rooms"), sides, strict=True))
        for seed, won in enumerate(values)
    ]


@given(numbers)
def test_rank_correlation_looks_at_ranks_only(values):
    values = sorted(values)
    ranks = list(range(len(values)))
    assert spearman(values, ranks) == pytest.approx(1.0)
    assert spearman(values, ranks[::-1]) == pytest.approx(-1.0)


def test_ties_share_a_rank_and_constants_have_none():
    assert spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(0.8944, abs=1e-4)  # as scipy.stats has it
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_agreement_orders_policies_by_truth_and_counts_what_differs():
    success = {
        "forward": ([0, 0, 1, 0], [0, 0, 0, 0]),
        "good": ([1, 1, 1, 0], [1, 1, 1, 1]),
        "fair": ([1, 0, 1, 0], [1, 0, 1, 0]),
    }
    found = Agreement.of(outcomes(success), "Mirage")
    assert found.policies == ("good", "fair", "forward")
    assert [e.mean for e in found.learned] == [0.75, 0.5, 0.25]
    assert found.success_correlation.mean == pytest.approx(1.0)
    assert found.success_correlation.low <= 1.0
    assert found.causes == {"other": 2}
    assert found.best_blind == 0.0
    assert "no benchmark" not in found.markdown("PointNav")


def test_a_task_that_a_blind_policy_solves_is_called_none():
    found = Agreement.of(outcomes({"orbit": ([1, 1], [1, 0]), "random": ([0, 0], [0, 0])}, (0, 1)), "Mirage")
    assert found.best_blind == 0.5
    assert "no benchmark" in found.markdown("PointNav")
    assert found.causes == {"contact in one world only": 1}
    fog = Agreement.of(outcomes({"a": ([1], [0]), "b": ([0], [0])}, coverage=0.2), "Mirage")
    assert fog.causes == {"mostly unseen ground": 1}
    assert np.isnan(fog.best_blind)


def test_episodes_that_are_missing_are_refused():
    played = outcomes({"a": ([1, 0], [1, 0]), "b": ([0, 0], [0, 0])})
    with pytest.raises(ValueError, match="play all in both"):
        Agreement.of(played[:-1], "Mirage")


@pytest.mark.parametrize("task", [PointNav(goals="seen"), ImageNav(goals="seen", radius=0.6)])
def test_the_compass_arrives_and_its_opposite_does_not(task):
    for name in ("compass", "compass_away"):
        env, policy = rooms(task), Compass(**TOLD[name])
        seen, info = env.reset(seed=1)
        policy.reset(seed=0)
        policy.begin(info)
        for _ in range(8):
            action = policy.act(seen)
            assert action in env.action_space
            seen, _, terminated, _, info = env.step(action)
            if terminated:
                break
        assert terminated == (name == "compass")


def test_wheels_turn_before_they_go():
    policy = Compass(turns_first=True)
    policy.begin({"goal_position": np.array([2.0, 0.0, 0.0])})
    action = policy.act({"agent_pos": np.array([0, 0, 0, 1, 0, 0, 0], np.float32)})
    assert (action[:3] == 0).all()
    assert action[4] == 1.0


def test_numbers_beside_the_points_are_short():
    assert _ranges([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7-8"


@pytest.fixture
def training(tmp_path):
    """A folder as `mirage train-policy` leaves it: two checkpoints, of policies that know nothing yet."""
    env = RoomsEnv(task=PointNav(), image_size=(64, 64))
    view, config = View.of(env.observation_space, ("pixels", "goal"), 16), NetworkConfig(hidden=(8,))
    network = build_network(view.space(env.observation_space), env.action_space, config)
    for steps in (16, 1024):
        folder = tmp_path / "runs/taught/checkpoints" / f"{steps:09}"
        LearnedPolicy(network, view, env.observation_space, config).save(folder)
    return tmp_path / "runs/taught"


def test_the_command_plays_compares_and_goes_on(tmp_path, capsys):
    options = PoliciesEval(
        tmp_path, world="Mirage/Readout", size=64, episodes=2, steps=3, policies=("still", "compass", "forward")
    )
    assert compare_policies(options) == 0
    assert "Spearman over 3 policies" in capsys.readouterr().out
    told = json.loads((tmp_path / "agreement.json").read_text())
    assert len(told["policies"]) == 3
    assert (tmp_path / "calibration.png").stat().st_size > 1000
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    (tmp_path / "episodes.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert compare_policies(options) == 0
    assert (tmp_path / "episodes.jsonl").read_text().splitlines() == lines
    assert compare_policies(replace(options, episodes=1)) == 0
    assert json.loads((tmp_path / "agreement.json").read_text())["episodes"] == 1
    with pytest.raises(InvalidOptionError, match="--episodes is 0"):
        PoliciesEval(episodes=0)


def test_planners_and_checkpoints_of_trainings_play_too(tmp_path, training):
    planners = ("planner_few_samples", "planner_blind_to_walls")
    options = PoliciesEval(
        tmp_path, world="Mirage/Readout", size=64, episodes=1, steps=2, policies=planners, trainings=(training,)
    )
    assert set(PLANNERS) <= set(replace(options, policies=()).names)
    assert compare_policies(options) == 0
    told = json.loads((tmp_path / "agreement.json").read_text())
    assert set(told["policies"]) == {*planners, "taught/16", "taught/1024"}
    for bad in ((tmp_path,), (training, training)):
        with pytest.raises(InvalidOptionError, match="no checkpoints or the name of another"):
            _ = PoliciesEval(trainings=bad).names
