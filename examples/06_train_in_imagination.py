"""Train in imagination, test in the true world.

    python examples/06_train_in_imagination.py --steps 4096

PPO learns PointNav in worlds that the model imagines, eight at a time, and never sees the true simulator; then it is
tested there. `mirage train-policy` does the same with more options. Run it again, and it goes on where it stopped.
"""

from functools import partial
from pathlib import Path

import gymnasium as gym
import tyro

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env import load_world_model
from mirage_env.rooms import start_view
from mirage_env.tasks import PointNav
from policies import LearnedPolicy
from policies.training import TrainPolicy, train_policy


def main(
    steps: int = 2048,
    worlds: int = 8,
    rollout: int = 16,
    episodes: int = 16,
    length: int = 20,
    out: Path = Path("agent"),
) -> None:
    """Train and test.

    Args:
        steps: environment steps, of all worlds together.
        worlds: that step together.
        rollout: steps of each world between two updates.
        episodes: of each test.
        length: of an episode, steps.
        out: folder for checkpoints, curve and policy.
    """
    model = load_world_model("rooms")

    def make_worlds(env: str, count: int, split: str) -> gym.vector.VectorEnv:
        """The same task in either world; training and tests use other rooms."""
        # Goals that the start view shows: the same in both worlds.
        task = PointNav(stop="automatic")
        if env.startswith("Rooms/"):
            return gym.make_vec(env, num_envs=count, max_episode_steps=length, task=task, split=split)
        views = partial(start_view, split=split)
        return gym.make_vec(env, num_envs=count, max_episode_steps=length, task=task, model=model, start_views=views)

    options = TrainPolicy(
        out,
        env="Mirage/PointNav-v0",
        steps=steps,
        observe=("goal",),  # enough where nothing stands in the way; add "pixels" to see
        worlds=worlds,
        rollout=rollout,
        batch=min(32, worlds * rollout),
        checkpoint_every=min(1024, steps),
        episodes=episodes,
        evaluate_every=0,
    )
    result = train_policy(options, make_worlds, progress=False)
    for score in result.evaluations:
        success = score["success"]
        print(f"{score['env']}: success {success['mean']:.2f} ({success['low']:.2f} to {success['high']:.2f})")

    # The policy is a folder with weights and settings; nothing in it is code.
    policy = LearnedPolicy.load(result.policy)
    print(f"{result.policy}: looks at {', '.join(policy.view.keys)}")


if __name__ == "__main__":
    tyro.cli(main)
