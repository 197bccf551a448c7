"""PPO of RLlib in imagination, by its own loop: a recipe, since RLlib pins a Gymnasium of its own.

    python -m venv rllib && rllib/bin/pip install 'ray[rllib]==2.60.0' -e .
    rllib/bin/python examples/09_train_with_rllib.py --iterations 20

In an environment of its own, because RLlib asks for an older Gymnasium than `constraints.txt` has (this package runs
with both). RLlib's default networks take one vector or one image, so the recipe looks at numbers only; give an
`RLModule` of your own to see `pixels` too. Every runner loads its own copy of the world model.
"""

from typing import Any

import gymnasium as gym
import tyro
from gymnasium.wrappers import FilterObservation, FlattenObservation

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env.tasks import PointNav


def make_world(settings: dict[str, Any]) -> gym.Env[Any, Any]:
    """One world as RLlib's default networks take it: a vector of `goal`."""
    env = gym.make(settings["id"], task=PointNav(stop="automatic"), max_episode_steps=20)
    return FlattenObservation(FilterObservation(env, ["goal"]))


def main(
    id: str = "Mirage/PointNav-v0", iterations: int = 20, batch: int = 256, minibatch: int = 64, runners: int = 0
) -> None:
    """Train, and print returns as they come.

    Args:
        id: any of the environments with a goal that is a point.
        iterations: of PPO.
        batch: environment steps of each.
        minibatch: of its updates.
        runners: processes that walk; 0: the one that learns.
    """
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.tune.registry import register_env

    register_env("mirage", make_world)
    ray.init("local", num_cpus=max(1, runners), include_dashboard=False, log_to_driver=False)
    config = (
        PPOConfig()
        .environment("mirage", env_config={"id": id})
        .env_runners(num_env_runners=runners, rollout_fragment_length="auto")
        .training(train_batch_size_per_learner=batch, minibatch_size=minibatch, num_epochs=4, lr=1e-3, gamma=0.8)
    )
    algorithm = config.build_algo()
    for iteration in range(iterations):
        result = algorithm.train()["env_runners"]
        print(f"iteration {iteration}: return {result.get('episode_return_mean', float('nan')):.2f}")
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    tyro.cli(main)
