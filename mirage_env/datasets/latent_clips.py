"""A data set of clips (`clip_store.py`), read clip by clip while training."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_env.datasets.clip_store import LatentClip, clip_names, read_clip, read_imagined, read_info, text_key
from mirage_env.datasets.zip_arrays import ENDING, read_arrays
from mirage_env.errors import DatasetError

CACHE_BYTES = 2**31
"""Clips stay in memory up to this many bytes."""


class LatentClips:
    """A data set, read clip by clip. May be sent to other processes.

    Raises:
        DatasetError: there is none, of another format or version, damaged, or without clips.
        ClipError: its first clip is damaged.
    """

    def __init__(self, path: str | Path, names: Sequence[str] | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        """Open a data set.

        Args:
            path: the data set.
            names: clips to read; all of them if not given.
            cache_bytes: clips that were read stay in memory up to this size.
        """
        self.path, self.cache_bytes = Path(path), cache_bytes
        self.info = read_info(self.path)
        self.names = clip_names(self.path) if names is None else list(names)
        if not self.names:
            raise DatasetError(f"{self.path} holds no clips; import some (mirage train --help)")
        self._cache: OrderedDict[str, LatentClip] = OrderedDict()
        self._texts: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        self[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return LatentClips, (self.path, self.names, self.cache_bytes)

    def split(self, held_out: int) -> tuple[LatentClips, LatentClips | None]:
        """The clips to train on, and so many, spread evenly, that are not trained on.

        Raises:
            DatasetError: nothing would be left to train on.
        """
        if held_out >= len(self):
            raise DatasetError(f"{held_out} of {len(self)} clips were to be held out; leave some to train on")
        if not held_out:
            return self, None
        kept = {self.names[int(i)] for i in np.linspace(0, len(self) - 1, held_out)}
        rest = [name for name in self.names if name not in kept]
        return LatentClips(self.path, rest, self.cache_bytes), LatentClips(self.path, sorted(kept), self.cache_bytes)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> LatentClip:
        """Read a clip.

        Raises:
            ClipError: it is damaged, or not of this data set's sizes.
        """
        name = self.names[index]
        return self._cached(f"clips/{name}", lambda: read_clip(self.path, name, self.info))

    @cached_property
    def has_imagined(self) -> bool:
        """Return whether a model has imagined these clips."""
        return (self.path / "imagined").is_dir()

    def imagined(self, index: int) -> LatentClip | None:
        """A clip with the latents that a model imagined, if there are any.

        Raises:
            ClipError: as `[index]`.
        """
        name = self.names[index]
        if not self.has_imagined or not (self.path / "imagined" / f"{name}{ENDING}").is_file():
            return None
        return self._cached(f"imagined/{name}", lambda: read_imagined(self.path, name, self[index]))

    def embedded(self, text: str) -> Tensor:  # [S, D]
        """Embedding of a prompt that was imported, padded as the transformer gets it.

        Raises:
            ClipError: that prompt was not embedded.
        """
        if text not in self._texts:
            arrays, _ = read_arrays(self.path / "texts" / f"{text_key(text)}{ENDING}")
            padded = torch.zeros(self.info.text_length, self.info.text_channels)
            padded[: len(arrays["embedding"])] = torch.from_numpy(arrays["embedding"].astype(np.float32))
            self._texts[text] = padded
        return self._texts[text]

    def importance(self) -> Tensor:  # [C]
        """Weight of each channel in losses measured in pixels."""
        weights = self.info.importance or (1.0,) * self.info.latent_channels
        return torch.tensor(weights)

    def _cached(self, key: str, read: Callable[[], LatentClip]) -> LatentClip:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        clip = read()
        with self._lock:
            self._cache[key] = clip
            while len(self._cache) > 1 and sum(c.nbytes for c in self._cache.values()) > self.cache_bytes:
                self._cache.popitem(last=False)
        return clip
