"""Plan in imagination: reach a point in a true room, with a planner that tries its paths out in its own memory.

    python examples/05_plan_in_imagination.py --episodes 3

The planner writes what it sees to a memory, scores hundreds of candidate paths by what the memory shows along them, and
carries out the first step of the best. No network is trained, and nothing is generated.
"""

import gymnasium as gym
import tyro

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env import load_world_model
from mirage_env.tasks import PointNav
from policies import Policy
from policies.planner import CEM, PlannerPolicy
from policies.rollout import RandomPolicy


def run(env: gym.Env, policy: Policy, seed: int) -> dict:
    """One episode; the last `info`."""
    observation, info = env.reset(seed=seed)
    policy.reset(seed)
    done = False
    while not done:
        observation, _, terminated, truncated, info = env.step(policy.act(observation))
        done = terminated or truncated
    return info


def main(episodes: int = 2, steps: int = 10, samples: int = 128) -> None:
    """Compare the planner with random actions in the true simulator.

    Args:
        episodes: how many.
        steps: of an episode, at most.
        samples: candidate paths per iteration of the solver.
    """
    # Success is to stand still within half a metre of the goal, which the start view shows.
    env = gym.make("Rooms/World-v0", task=PointNav(), max_episode_steps=steps)
    solver = CEM(samples=samples, elites=max(2, samples // 8), iterations=4)
    policies: dict[str, Policy] = {
        # Rooms have z up. `depth` is not observed, so the planner estimates it.
        "planner": PlannerPolicy(load_world_model("rooms"), solver=solver, horizon=4, up=(0.0, 0.0, 1.0)),
        "random": RandomPolicy(env.action_space),
    }
    for name, policy in policies.items():
        for seed in range(episodes):
            info = run(env, policy, seed)
            reached = "reached the goal" if info["is_success"] else f"{info['distance_to_goal']:.2f} m are left"
            print(f"{name}, seed {seed}: {reached}, SPL {info['spl']:.2f}, walked {info['path_length']:.2f} m")
    env.close()


if __name__ == "__main__":
    tyro.cli(main)
