"""Record: every frame as a video, every episode as a file.

    python examples/03_record.py

Recorders are wrappers. They pass everything through, so the loop does not know that it is watched, and they can be put
around each other in any order.
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env import RecordChunks
from mirage_env.episodes import CountEpisodes, RecordEpisodes, episode_files, load_episode


def main(episodes: int = 2, steps: int = 5, out: Path = Path("recorded")) -> None:
    """Record random walks towards a point.

    Args:
        episodes: how many.
        steps: of an episode, at most.
        out: folder for videos and episodes.
    """
    env = gym.make("Mirage/PointNav-v0", max_episode_steps=steps)
    env = RecordChunks(env, out / "videos")  # an mp4 per episode; frames go to the file as they come
    env = RecordEpisodes(env, out / "episodes", all_frames=True)  # a Zarr file per episode
    env = CountEpisodes(env)

    rng = np.random.default_rng(0)
    for episode in range(episodes):
        env.reset(seed=episode)
        done = False
        while not done:
            # Random, but rather forward than back.
            action = rng.uniform([-0.3, 0, 0, 0, -1, 0], [0.3, 0, 0.6, 0, 1, 0]).astype(np.float32)
            _, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
    print(f"counted: {env.counts}")
    env.close()  # writes what is still open

    for path in episode_files(out / "episodes"):
        episode = load_episode(path)
        poses, images = episode.frames["poses"], episode.frames["images"]
        print(f"{path.name}: {len(episode)} steps, {len(poses)} frames of {images.shape[1:]}")
        print(f"  rewards {episode.rewards.round(2)}, distance left {episode.infos['distance_to_goal'][-1]:.2f} m")
        # Row i of `poses` is where frame i was seen from: x, y, z in metres, then a quaternion, w first.
        print(f"  from {poses[0, :3].round(2)} to {poses[-1, :3].round(2)}")
    print(f"videos: {sorted(path.name for path in (out / 'videos').iterdir())}")


if __name__ == "__main__":
    tyro.cli(main)
