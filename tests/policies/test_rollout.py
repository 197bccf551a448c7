"""Rollouts: resumable, reproducible, each one whole or not there."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from forked_python import ForkedProcess
from stand_ins import walled_world_model
from worlds import open_minded_model, start, walk

from mirage_env.cli import main
from mirage_env.episodes import differences, episode_files, load_episode
from mirage_env.errors import CacheModelError, InvalidActionError, InvalidOptionError, RolloutError
from mirage_env.files.atomic import MADE_HERE
from mirage_env.models.world_model_loader import load_world_model, save_world_model
from mirage_env.store import save_world
from policies.base import Policy
from policies.rollout.loop import Recipe, replay
from policies.rollout.plan import RolloutPlan, Shard
from policies.rollout.policy_names import NAMES, make_policy
from policies.rollout.runner import run_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_world_model(open_minded_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def caches(tmp_path_factory, model):
    """Folder of three saved worlds."""
    folder = tmp_path_factory.mktemp("caches")
    loaded = load_world_model(model)
    for number in range(3):
        walked = walk(loaded, number, seed=number)
        save_world(folder / f"world_{number}.zarr", walked[-1][1], loaded, [chunk for chunk, _ in walked])
    return folder


@pytest.fixture
def recipe(model):
    return Recipe(model=model, steps=2)


def recorded(plan, folder, **arguments):
    done = list(run_plan(plan, folder, **arguments))
    return sorted(d.number for d in done), [load_episode(path) for path in episode_files(folder)]


def test_every_rollout_is_recorded_with_where_it_comes_from(tmp_path, recipe, caches):
    plan = RolloutPlan.of(replace(recipe, task="explore"), 4, seed=7, caches=caches)
    numbers, episodes = recorded(plan, tmp_path)
    assert numbers == [0, 1, 2, 3]
    for number, episode in enumerate(episodes):
        about = episode.provenance
        assert len(episode) == 2
        assert episode.truncated.tolist() == [False, True]
        assert episode.frames["poses"].shape == (1 + 2 * 4, 7)
        assert episode.observations["pixels"].shape == (3, 32, 32, 3)
        np.testing.assert_allclose(episode.frames["poses"][[0, 4, 8]], episode.observations["agent_pos"], atol=1e-6)
        assert (about["number"], about["seed"], about["policy"]) == (number, 7 + number, "random")
        assert about["cache"]["path"] == str(caches / f"world_{number % 3}.zarr")
        assert about["cache"]["chunk"] == number % 3
        assert about["model_identity"] == load_world_model(recipe.model).identity
        assert about["versions"]["mirage-env"]


def test_all_frames_are_kept_where_they_are_asked_for(tmp_path, recipe, caches):
    _, [episode] = recorded(RolloutPlan.of(replace(recipe, all_frames=True), 1, caches=caches), tmp_path)
    assert episode.frames["images"].shape == (9, 32, 32, 3)
    np.testing.assert_array_equal(episode.frames["images"][[0, 4, 8]], episode.observations["pixels"])


def test_seed_decides_what_is_imagined_unless_the_saved_noise_is_wanted(tmp_path, recipe, caches):
    alike = []
    for same in (False, True):
        fixed = replace(recipe, policy="look_around", same_noise=same, steps=2)
        plan = RolloutPlan.of(fixed, 2, caches=caches / "world_1.zarr")
        _, (one, other) = recorded(plan, tmp_path / str(same))
        alike.append(differences(one, other) == [])
    assert alike == [False, True]


@pytest.mark.parametrize("env", ["Mirage/World-v0", "Mirage/PointNav-v0", "Mirage/Readout-v0"])
def test_replay_is_equal_to_the_bit(tmp_path, recipe, caches, env):
    _, [episode] = recorded(RolloutPlan.of(replace(recipe, env=env), 1, seed=3, caches=caches), tmp_path)
    again, lines = replay(episode)
    assert lines == []
    assert again.provenance == episode.provenance


def test_replay_tells_where_it_differs_and_what_changed(tmp_path, recipe, caches):
    _, [episode] = recorded(RolloutPlan.of(recipe, 1, caches=caches), tmp_path)
    pixels = episode.observations["pixels"].copy()
    pixels[2, 0, 0, 0] ^= 1
    changed = replace(
        episode,
        observations={**episode.observations, "pixels": pixels},
        provenance={**episode.provenance, "machine": "another"},
    )
    _, lines = replay(changed)
    assert "observations/pixels: from row 2 of 3 on; largest difference" in lines[0]
    assert any("machine was another" in line for line in lines)


def test_true_rooms_are_rolled_out_too(tmp_path):
    recipe = Recipe(env="Rooms/PointNav-v0", steps=1, policy="forward")
    _, [episode] = recorded(RolloutPlan.of(recipe, 1), tmp_path)
    assert episode.observations["goal"].shape == (2, 3)
    assert {"distance_to_goal", "spl"} <= set(episode.infos)
    assert replay(episode)[1] == []


def test_second_run_records_only_what_is_missing_and_more_may_be_asked_for(tmp_path, recipe, caches):
    plan = RolloutPlan.of(recipe, 3, caches=caches)
    recorded(plan, tmp_path)
    plan.file(tmp_path, 1).unlink()
    (tmp_path / f".rollout_000001.zarr.zip.{MADE_HERE}-{2**22 + 1}-01234567.new.tmp").write_bytes(b"left by a kill")
    before = {path: path.stat().st_mtime_ns for path in episode_files(tmp_path)}
    numbers, _ = recorded(replace(plan, episodes=4), tmp_path)
    assert numbers == [1, 3]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(tmp_path.glob(".*.tmp"))
    assert json.loads((tmp_path / "plan.json").read_text())["episodes"] == 4


def test_shards_record_apart_what_one_run_records(tmp_path, recipe, caches):
    plan = RolloutPlan.of(recipe, 5, caches=caches)
    recorded(plan, tmp_path / "one")
    assert [list(recorded_shard(plan, tmp_path / f"part{i}", Shard(i, 2))) for i in (1, 2)] == [[0, 2, 4], [1, 3]]
    both = [plan.file(tmp_path / f"part{1 + n % 2}", n) for n in range(5)]
    for number, path in enumerate(both):
        assert not differences(load_episode(path), load_episode(plan.file(tmp_path / "one", number)))
        path.rename(plan.file(tmp_path / "part1", number))
    assert recorded(plan, tmp_path / "part1")[0] == []


def recorded_shard(plan, folder, shard):
    return [done.number for done in run_plan(plan, folder, shard=shard)]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_shard_that_is_none_is_refused(text):
    with pytest.raises(InvalidOptionError, match="shard"):
        Shard.of(text)


def test_killed_run_goes_on_without_repeating_or_losing_one(tmp_path, recipe, caches):
    plan, out = RolloutPlan.of(recipe, 8, caches=caches), tmp_path / "out"
    arguments = ["rollout", caches, "--model", recipe.model, "--steps", "2", "--episodes", "8", "--out", out]
    code = "import sys\nfrom mirage_env.cli import main\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))"
    run = ForkedProcess(["-c", code, *map(str, arguments), "--workers", "2"], dict(os.environ), str(tmp_path))
    deadline = time.monotonic() + 300
    while len(list(out.glob("rollout_*"))) < 2:
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    with run.stdout:
        run.stdout.read()  # ends when the workers have closed it too
    there = {path: path.read_bytes() for path in episode_files(out)}
    numbers, episodes = recorded(plan, out)
    assert sorted(numbers + [load_episode(p).provenance["number"] for p in there]) == list(range(8))
    assert [e.provenance["number"] for e in episodes] == list(range(8))
    assert all(path.read_bytes() == data for path, data in there.items())
    # Neither the processes nor what they did before matter.
    _, whole = recorded(plan, tmp_path / "undisturbed")
    assert all(differences(a, b) == [] for a, b in zip(episodes, whole, strict=True))


def test_folder_of_other_rollouts_or_another_run_is_refused(tmp_path, recipe, caches):
    plan = RolloutPlan.of(recipe, 2, caches=caches)
    running = run_plan(plan, tmp_path)
    next(running)
    with pytest.raises(RolloutError, match="another run writes"):
        list(run_plan(plan, tmp_path))
    running.close()
    with pytest.raises(RolloutError, match=r"another recipe, see plan\.json"):
        list(run_plan(replace(plan, recipe=replace(recipe, policy="orbit")), tmp_path))


def test_mistake_in_a_plan_leaves_its_folder_free_for_another(tmp_path, recipe, caches):
    plan = RolloutPlan.of(recipe, 1, caches=caches)
    with pytest.raises(InvalidOptionError, match="nobody"):
        list(run_plan(replace(plan, recipe=replace(recipe, policy="nobody")), tmp_path))
    assert [done.number for done in run_plan(plan, tmp_path)] == [0]


def test_cache_of_another_model_is_refused_before_anything_is_written(tmp_path, recipe, caches):
    other = tmp_path / "caches"
    chunk, state = start(walled_world_model())
    save_world(other / "w.zarr", state, walled_world_model(), [chunk])
    with pytest.raises(CacheModelError, match="written by the model 'tiny'"):
        RolloutPlan.of(recipe, 1, caches=other)


def test_actions_of_another_space_are_refused(tmp_path, recipe, caches):
    recipe = replace(recipe, policy=f"{__name__}:too_long")
    with pytest.raises(InvalidActionError, match="shape"):
        list(run_plan(RolloutPlan.of(recipe, 1, caches=caches), tmp_path))
    assert not list(tmp_path.glob("rollout_*"))


def too_long(env) -> Policy:
    class TooLong:
        def reset(self, seed=None):
            pass

        def act(self, observation):
            return np.zeros(9, np.float32)

    return TooLong()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"env": "Mirage/Nothing-v0"}, "Gymnasium does not know"),
        ({"steps": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_wrong_recipe_is_refused(change, says):
    with pytest.raises(InvalidOptionError, match=says):
        Recipe(**change)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("teleport", {}, "choose one of random, random_stop, still"),
        ("forward", {"wings": 2}, "does not take the options"),
        ("nowhere:f", {}, "no 'module:function'"),
    ],
)
def test_wrong_policy_is_refused(name, options, says):
    with pytest.raises(InvalidOptionError, match=says):
        make_policy(name, None, options)


def test_caches_go_with_learned_worlds_only(caches, tmp_path):
    with pytest.raises(InvalidOptionError, match="no learned world"):
        RolloutPlan.of(Recipe(env="Rooms/World-v0"), 1, caches=caches)
    with pytest.raises(InvalidOptionError, match="holds no caches"):
        RolloutPlan.of(Recipe(), 1, caches=tmp_path)
    assert "planner" in NAMES


def test_command_rolls_out_and_replays(tmp_path, model, caches, capsys):
    out = tmp_path / "out"
    arguments = ["rollout", caches, "--model", model, "--policy", "orbit", "--policy-options", "speed=0.5"]
    assert main([*map(str, arguments), "--steps", "1", "--episodes", "2", "--out", str(out)]) == 0
    assert "holds 2 rollouts" in capsys.readouterr().out
    [first, _] = episode_files(out)
    assert main(["rollout", "--replay", str(first)]) == 0
    assert "the same bit for bit" in capsys.readouterr().out
    assert main(["rollout", "--episodes", "1"]) == 2
    assert "--out" in capsys.readouterr().err


def test_no_worker_is_left():
    assert multiprocessing.active_children() == []
