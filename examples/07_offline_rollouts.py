"""Offline rollouts: many episodes from saved worlds, as a dataset that others can read.

    python examples/07_offline_rollouts.py --episodes 20 --workers 2

The same as `mirage rollout` and `mirage export`. A run that is killed goes on when it is started again, and neither
repeats nor loses an episode.
"""

from pathlib import Path

import gymnasium as gym
import tyro

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env.episodes import differences, episode_files, export_minari, import_minari, load_episode
from policies.rollout import Recipe, RolloutPlan, replay, run_plan


def main(caches: int = 2, episodes: int = 4, steps: int = 3, workers: int = 1, out: Path = Path("offline")) -> None:
    """Make worlds, roll out in them, export, and check.

    Args:
        caches: worlds to save.
        episodes: rollouts, from the worlds in turn.
        steps: of a rollout.
        workers: processes.
        out: folder for everything.
    """
    # 1. Worlds to begin with, each a little explored.
    env = gym.make("Mirage/World-v0")
    for seed in range(caches):
        env.reset(seed=seed)
        env.step(env.action_space.sample() * 0.3)
        env.unwrapped.save(out / f"worlds/world_{seed}.zarr", overwrite=True)
    env.close()

    # 2. Rollouts. The plan says which; the folder holds what is done.
    recipe = Recipe(task="explore", steps=steps, policy="random")
    plan = RolloutPlan.of(recipe, episodes, caches=out / "worlds")
    for done in run_plan(plan, out / "rollouts", workers):
        print(f"rollout {done.number}: {done.steps} steps, {done.reward:.2f} square metres of new ground")

    # 3. Any of them can be reproduced, to the bit on the same machine.
    files = episode_files(out / "rollouts")
    _, lines = replay(load_episode(files[0]))
    print(f"replay of {files[0].name}: {lines or 'the same bit for bit'}")

    # 4. Other formats: Minari keeps everything.
    dataset = out / "rollouts-v0"
    if not dataset.exists():
        export_minari(map(load_episode, files), dataset)
    pairs = zip(map(load_episode, files), import_minari(dataset), strict=True)
    print(f"{dataset}: the same episodes: {all(not differences(a, b) for a, b in pairs)}")


if __name__ == "__main__":
    tyro.cli(main)
