"""Episodes: what happened between a reset and the end, as a value and as a file, and what other formats make of it.

episode.py    Episode, and how two of them differ          recorder.py   RecordEpisodes, CountEpisodes (wrappers)
files.py      save_episode, load_episode (one Zarr zip)    minari.py     to Minari and back, lossless
lerobot.py    to the layout of LeRobotDataset
"""

from mirage_env.episodes.episode import Episode, differences
from mirage_env.episodes.episode_files import episode_files, load_episode, save_episode
from mirage_env.episodes.recording_wrappers import CountEpisodes, RecordEpisodes

__all__ = [
    "CountEpisodes",
    "Episode",
    "RecordEpisodes",
    "differences",
    "episode_files",
    "load_episode",
    "save_episode",
]
