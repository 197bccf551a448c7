"""Replicas and rollouts on a real Ray cluster of three raylets, of which parts die. Needs the extra `scale`."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import small_training
from stand_ins import walled_world_model
from task_worlds import FORWARD, TURN, mirage
from worlds import open_minded_model

from mirage_env.episodes import episode_files
from mirage_env.errors import InvalidOptionError, ReplicaLostError
from mirage_env.models.world_model_loader import save_world_model
from mirage_env.serving import Address, Client, ReplicatedService, ServiceOptions, serving
from policies.rollout.loop import Recipe
from policies.rollout.plan import RolloutPlan
from policies.rollout.runner import run_plan
from policies.training.ray_worlds import divided
from policies.training.train import train_policy

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        helpers = str(Path(__file__).parents[1] / "helpers")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [helpers, os.environ.get("PYTHONPATH")])))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.others = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def test_sessions_go_on_from_their_last_acknowledged_step_when_a_replica_dies(cluster, tmp_path):
    service = ReplicatedService(ray, walled_world_model, ServiceOptions(tmp_path), "stand_ins:start_view", 2)
    with serving(service, Address(port=0)) as url:
        with Client(url) as client:
            worlds = [client.open(seed=seed).world for seed in range(4)]
        assert len({name[:3] for name in worlds}) == 2

        def session(name):
            lost = chunk = 0
            with Client(url) as client:
                world = client.world(name)
                while chunk < 12:
                    try:
                        view = world.step(0.2 * TURN, frames="none")
                    except ReplicaLostError:
                        lost, view = lost + 1, world.look()
                        assert view.chunk - chunk in (0, 1)
                    else:
                        assert view.chunk == chunk + 1
                    chunk = view.chunk
                kept = world.snapshot().moment
                return lost, world.fork().step(0.3 * FORWARD, frames="raw").frames, world.restore(kept).chunk

        with ThreadPoolExecutor(4) as pool:
            sessions = [pool.submit(session, name) for name in worlds]
            time.sleep(0.3)
            processes = psutil.Process().children(recursive=True)
            next(p for p in processes if "".join(p.cmdline()).startswith("ray::Replica")).kill()
            ends = [run.result() for run in sessions]
        assert any(lost for lost, _, _ in ends)
        assert {chunk for *_, chunk in ends} == {12}
        with Client(url) as client:
            assert {w["world"] for w in client.worlds() if w["parent"] is None} == set(worlds)
        env = mirage()
        env.reset(seed=0)
        for action in [0.2 * TURN] * 12 + [0.3 * FORWARD]:
            env.step(action)
        difference = env.shown_frames().astype(int) - ends[0][1]
        assert np.abs(difference).max() <= 1  # worlds that walk together round differently
    with pytest.raises(InvalidOptionError, match="at least"):
        ReplicatedService(ray, walled_world_model, ServiceOptions(tmp_path), "stand_ins:start_view", 1)


def test_training_in_worlds_of_actors_learns_what_one_process_learns(cluster, tmp_path):
    changes = {"steps": 16, "evaluate_every": 0, "episodes": 0, "worlds": 3}
    alone = small_training.run(tmp_path / "alone", **changes)
    make_worlds = partial(divided, ray, small_training.make_worlds, 2)
    many = train_policy(small_training.options(tmp_path / "many", **changes), make_worlds, progress=False)
    files = [{path.name: path.read_bytes() for path in result.policy.iterdir()} for result in (alone, many)]
    assert files[0] == files[1]
    assert len(files[0]) >= 2


def test_rollouts_with_a_lost_machine_are_the_bytes_of_one_machine(cluster, tmp_path):
    save_world_model(open_minded_model(), tmp_path / "tiny")
    plan = RolloutPlan.of(Recipe(model=str(tmp_path / "tiny"), steps=1, policy="look_around"), 8)
    list(run_plan(plan, tmp_path / "one"))
    numbers = []
    for done in run_plan(plan, tmp_path / "many", ray=True):
        numbers.append(done.number)
        if len(numbers) == 2:
            cluster.remove_node(cluster.others[0], allow_graceful=False)
    assert sorted(numbers) == list(range(8))
    files = [{path.name: path.read_bytes() for path in episode_files(tmp_path / name)} for name in ("one", "many")]
    assert files[0] == files[1]
