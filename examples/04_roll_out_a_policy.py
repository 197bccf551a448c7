"""Roll out a policy, in the learned world and in the true simulator.

    python examples/04_roll_out_a_policy.py --policy orbit

A policy has two methods, `reset(seed)` and `act(observation)`. Both worlds have the same spaces and, with the same
seed, the same start view; so the same policy runs in both, and the pictures can be compared.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import tyro

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env.episodes import Episode, RecordEpisodes
from policies import Policy
from policies.rollout import make_policy, roll_out


class Cautious:
    """A policy of one's own: another one, at half its speed where the picture is dark."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def reset(self, seed: int | None = None) -> None:
        """An episode begins; everything random comes from the seed."""
        self.policy.reset(seed)

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        """The next action, from the observation alone."""
        dark = observation["pixels"].mean() < 60
        return self.policy.act(observation) * np.float32(0.5 if dark else 1.0)


def record(world: str, name: str, seed: int, steps: int) -> Episode:
    """One episode in one of the worlds."""
    episodes: list[Episode] = []
    env = RecordEpisodes(gym.make(world, max_episode_steps=steps), episodes.append)
    roll_out(env, Cautious(make_policy(name, env)), seed)
    env.close()
    return episodes[0]


def main(policy: str = "orbit", seed: int = 7, steps: int = 5) -> None:
    """Run a policy in both worlds.

    Args:
        policy: random, still, forward, look_around or orbit.
        seed: of the start view and of the policy.
        steps: of the episode.
    """
    imagined = record("Mirage/World-v0", policy, seed, steps)
    true = record("Rooms/World-v0", policy, seed, steps)
    for step in range(steps + 1):
        a, b = (e.observations["pixels"][step].astype(float) for e in (imagined, true))
        psnr = 10 * np.log10(255**2 / max(np.mean((a - b) ** 2), 1e-9))
        known = imagined.infos["coverage"][step]
        print(f"step {step}: {psnr:5.1f} dB against the true view; the memory knew {known:.0%} of it")


if __name__ == "__main__":
    tyro.cli(main)
