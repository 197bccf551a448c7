"""End machines of a Ray cluster in the middle of rollouts, and replicas of a server under sessions.

    PYTHONPATH=tests/helpers python benchmarks/ray_kills.py --kills 20 --out ray_kills.json

Three raylets on this machine and a tiny model. After each kill the data set must be complete and equal in bytes to that
of one machine; every session must go on from its last acknowledged step.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import tyro
from ray.cluster_utils import Cluster
from stand_ins import walled_world_model
from worlds import open_minded_model

from mirage_env.errors import ReplicaLostError
from mirage_env.models.world_model_loader import save_world_model
from mirage_env.serving import Address, Client, ReplicatedService, ServiceOptions, serving
from policies.rollout.loop import Recipe
from policies.rollout.plan import RolloutPlan
from policies.rollout.runner import run_plan

TURN = 0.2 * np.array([0, 0, 0, 0, 1.0, 0])


@dataclass(frozen=True)
class Options:
    """Sizes of the runs."""

    out: Path = Path("ray_kills.json")
    kills: int = 20
    """Machines that are ended, each in the middle of a run of its own."""
    rollouts: int = 200
    sessions: int = 32
    steps: int = 20
    """Steps of every session."""
    replica_kills: int = 5
    drains: int = 3
    """Machines that are taken away from under a replica, after another one was added."""


def rollouts(options: Options, cluster: Cluster, folder: Path) -> dict[str, Any]:
    """Runs of a plan, a machine ended in the middle of each."""
    rng, begin = np.random.default_rng(0), time.perf_counter()
    save_world_model(open_minded_model(), folder / "tiny")
    recipe = Recipe(model=str(folder / "tiny"), steps=1, policy="look_around")
    plan = RolloutPlan.of(recipe, options.rollouts)
    list(run_plan(plan, folder / "one"))
    alone, equal = contents(folder / "one"), 0
    for number in range(options.kills):
        extra = cluster.add_node(num_cpus=1)
        moment = int(rng.integers(1, options.rollouts - 1))
        for count, _ in enumerate(run_plan(plan, folder / str(number), ray=True)):
            if count == moment:
                cluster.remove_node(extra, allow_graceful=False)
        equal += contents(folder / str(number)) == alone
        print(f"{number + 1} machines ended, {equal} data sets equal", flush=True)
    seconds = time.perf_counter() - begin
    return {"kills": options.kills, "rollouts": options.rollouts, "equal": equal, "seconds": seconds}


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a data set."""
    return {path.name: path.read_bytes() for path in folder.glob("rollout_*")}


def sessions(options: Options, cluster: Cluster, machine: Any, folder: Path) -> dict[str, Any]:
    """Sessions on two replicas, one of which is ended now and then, or loses its machine."""
    rng, behind, lost, late = np.random.default_rng(1), 0, 0, []
    service = ReplicatedService(ray, walled_world_model, ServiceOptions(folder), "stand_ins:start_view", 2)
    with serving(service, Address(port=0)) as url:
        with Client(url) as client:
            names = [client.open(seed=seed, want={"frames": "none"}).world for seed in range(options.sessions)]

        def walk(name: str) -> tuple[int, int, float]:
            behind = lost = 0
            slowest = 0.0
            with Client(url) as client:
                world, chunk = client.world(name), 0
                while chunk < options.steps:
                    begin = time.perf_counter()
                    try:
                        now = world.step(TURN, frames="none").chunk
                    except ReplicaLostError:
                        lost, now = lost + 1, world.look(frames="none").chunk
                    behind += now < chunk
                    chunk, slowest = now, max(slowest, time.perf_counter() - begin)
            return behind, lost, slowest

        with ThreadPoolExecutor(options.sessions) as pool:
            runs = [pool.submit(walk, name) for name in names]
            for _ in range(options.replica_kills):
                time.sleep(float(rng.uniform(0.5, 2.0)))
                processes = psutil.Process().children(recursive=True)
                replicas = [p for p in processes if "".join(p.cmdline()).startswith("ray::Replica")]
                if replicas:
                    replicas[int(rng.integers(len(replicas)))].kill()
            for _ in range(options.drains):
                time.sleep(float(rng.uniform(0.5, 2.0)))
                another = cluster.add_node(num_cpus=1)
                cluster.remove_node(machine, allow_graceful=True)
                machine = another
            for run in runs:
                one, other, slowest = run.result()
                behind, lost = behind + one, lost + other
                late.append(slowest)
    return {
        "sessions": options.sessions,
        "kills": options.replica_kills,
        "drains": options.drains,
        "sessions_behind": behind,
        "requests_lost": lost,
        "longest_wait_s": max(late),
    }


def main(options: Options) -> None:
    """Run both parts and write the figures."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "120"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    machine = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    results: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        results["sessions"] = sessions(options, cluster, machine, Path(folder) / "served")
        print(results, flush=True)
        results["rollouts"] = rollouts(options, cluster, Path(folder))
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(results, flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(tyro.cli(Options))
