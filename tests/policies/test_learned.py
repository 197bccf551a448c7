"""Learned policies: what they look at, and that their folder gives the same policy back."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from stable_baselines3.common.policies import BasePolicy
from task_worlds import NAMES, SMALL

import mirage_env  # noqa: F401 (registers the ids)
from mirage_env.errors import PolicyError
from policies.learned import KEYS, Features, LearnedPolicy, NetworkConfig, View, build_network, load_weights, weights_of

ACTIONS = Box(-1.0, 1.0, (6,), np.float32)


def new_policy(env, algorithm="ppo", keys=()) -> LearnedPolicy:
    view = View.of(env.observation_space, keys, side=16)
    config = NetworkConfig(algorithm, hidden=(16,))
    torch.manual_seed(0)
    network = build_network(view.space(env.observation_space), env.action_space, config)
    return LearnedPolicy(network, view, env.observation_space, config)


@pytest.fixture(scope="module")
def env():
    with gym.make("Rooms/PointNav-v0", **SMALL, observe=("readout",)) as made:
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_features_take_the_observation_of_every_task(name):
    with gym.make(f"Rooms/{name}-v0", **SMALL, observe=("readout", "depth")) as env:
        view = View.of(env.observation_space, side=16)
        assert view.keys == tuple(key for key in KEYS if key in env.observation_space.spaces)
        space = view.space(env.observation_space)
        seen = view(env.observation_space.sample())
        assert space.contains(seen)
        features = Features(space)
        batch = {key: torch.as_tensor(value)[None].float() for key, value in seen.items()}
        assert features(batch).shape == (1, features.features_dim)
        assert torch.isfinite(features(batch)).all()


def test_view_of_a_batch_is_the_views_of_its_rows(env):
    view = View.of(env.observation_space, side=8)
    rows = [env.observation_space.sample() for _ in range(3)]
    batch = view({key: np.stack([row[key] for row in rows]) for key in rows[0]})
    for i, row in enumerate(rows):
        assert all(np.array_equal(batch[key][i], value) for key, value in view(row).items())


def test_features_see_images_and_numbers(env):
    policy = new_policy(env)
    seen = policy.view(env.observation_space.sample())
    before = policy.network.extract_features(policy.network.obs_to_tensor(seen)[0])
    for key in seen:
        changed = policy.network.obs_to_tensor({**seen, key: np.zeros_like(seen[key])})[0]
        assert not torch.equal(policy.network.extract_features(changed), before)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_folder_gives_the_same_actions(env, algorithm, tmp_path):
    policy = new_policy(env, algorithm)
    policy.save(tmp_path / "policy")
    loaded = LearnedPolicy.load(tmp_path / "policy")
    loaded.check(env.observation_space, env.action_space)
    loaded.reset(seed=1)
    for _ in range(5):
        observation = env.observation_space.sample()
        action = loaded.act(observation)
        assert env.action_space.contains(action)
        assert np.array_equal(action, policy.act(observation))


def test_folder_is_text_and_safetensors_only(env, tmp_path):
    new_policy(env).save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert not any(path.read_bytes().startswith((b"PK", b"\x80")) for path in tmp_path.iterdir())


def test_weights_go_into_another_network_unchanged(env):
    first, second = new_policy(env), new_policy(env)
    for value in second.network.parameters():
        value.data.add_(1.0)
    load_weights(second.network, weights_of(first.network), "a test")
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))
    assert isinstance(first.network, BasePolicy)


def test_policy_refuses_other_spaces(env):
    policy = new_policy(env, keys=("pixels", "goal"))
    space = env.observation_space
    with pytest.raises(PolicyError, match="looks at 'goal'"):
        policy.check(Dict({"pixels": space["pixels"]}), env.action_space)
    with pytest.raises(PolicyError, match="looks at 'pixels'"):
        policy.check(Dict({**space.spaces, "pixels": Box(0, 255, (64, 64, 3), np.uint8)}), env.action_space)
    with pytest.raises(PolicyError, match="acts in"):
        policy.check(space, Box(-1.0, 1.0, (7,), np.float32))
    with pytest.raises(PolicyError, match="no 'goal'"):
        policy.act({"pixels": space["pixels"].sample()})


@pytest.mark.parametrize(
    ("space", "keys", "says"),
    [
        (Box(0.0, 1.0, (3,)), (), "need a Dict"),
        (Dict({"depth": Box(0.0, 1.0, (3,))}), (), "can look at"),
        (Dict({"goal": Box(0.0, 1.0, (3,))}), ("pixels",), "has no pixels"),
    ],
)
def test_view_refuses_spaces_without_its_keys(space, keys, says):
    with pytest.raises(PolicyError, match=says):
        View.of(space, keys)


@pytest.mark.parametrize(
    ("file", "spoil", "says"),
    [
        ("policy.json", None, "there is no policy"),
        ("policy.safetensors", None, "there is no policy"),
        ("policy.json", lambda data: data[: len(data) // 2], "damaged"),
        ("policy.safetensors", lambda data: data[: len(data) // 2], "damaged"),
        ("policy.json", lambda data: data.replace(b'"format": 1', b'"format": 2'), "not of format"),
        ("policy.json", lambda data: data.replace(b'"spread"', b'"bread"'), "damaged"),
        (
            "policy.json",
            lambda data: data.replace(b'"image_width": 32', b'"image_width": 8'),
            "does not hold the weights",
        ),
        (
            "policy.json",
            lambda data: re.sub(rb'"hidden": \[[^]]*\]', b'"hidden": [99999, 99999]', data),
            "a network of at",
        ),
        ("policy.json", lambda data: re.sub(rb'"shape": \[\s*3\s*\]', b'"shape": [99999, 99999]', data), "at most"),
        ("policy.json", lambda data: b"[" * 99_999, "nested too deep"),
    ],
)
def test_damaged_folder_is_refused(env, tmp_path, file, spoil, says):
    new_policy(env).save(tmp_path)
    path = tmp_path / file
    if spoil is None:
        path.unlink()
    else:
        path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(PolicyError, match=says):
        LearnedPolicy.load(tmp_path)


def test_settings_tell_what_the_policy_looks_at(env, tmp_path):
    new_policy(env, keys=("goal",)).save(tmp_path)
    settings = json.loads((tmp_path / "policy.json").read_text())
    assert settings["view"] == {"keys": ["goal"], "side": 16}
    assert settings["observation"]["goal"]["shape"] == [3]
