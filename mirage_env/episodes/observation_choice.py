"""Choice of observations for export: some of them, or one vector, as offline learners without dictionaries want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mirage_env.episodes.episode import Episode
from mirage_env.errors import EpisodeError

FLAT = "observation"
"""Name of the one vector."""


def with_observations(episode: Episode, names: Sequence[str] = (), flat: bool = False) -> Episode:
    """Keep some observations of an episode.

    Args:
        episode: as recorded.
        names: which to keep, in this order; all if empty.
        flat: join them to one float32 vector per step, called `FLAT`; images are divided by 255.

    Raises:
        EpisodeError: an observation that the episode does not have.
    """
    if missing := [name for name in names if name not in episode.observations]:
        raise EpisodeError(f"the episode has no observations {missing}; it has {list(episode.observations)}")
    kept = {name: episode.observations[name] for name in (names or episode.observations)}
    if flat:
        rows = [v.reshape(len(v), -1) / (255.0 if v.dtype == np.uint8 else 1.0) for v in kept.values()]
        kept = {FLAT: np.concatenate(rows, axis=1).astype(np.float32)}
    return replace(episode, observations=kept)
