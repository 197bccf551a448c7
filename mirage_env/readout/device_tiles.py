"""Copies of memory blocks on a device, for the readout there.

Blocks are immutable, so each array is copied once per device and kept for as long as the block's own lives. What later
views say about tokens (`confidence`) is not copied: a block whose confidence changed shares the others with the one
before.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.tokens.blocks import MemoryBlock

_copies: dict[tuple[int, torch.device], Tensor] = {}


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The copy of an array that never changes; unsigned 16-bit numbers become signed ones of the same bits."""
    key = (id(array), device)
    copy = _copies.get(key)
    if copy is None:
        copy = torch.tensor(array.view(np.int16) if array.dtype == np.uint16 else array, device=device)
        _copies[key] = copy
        weakref.finalize(array, _copies.pop, key, None)
    return copy


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of several blocks on a device, newest block first, so that "the first" wins every tie.

    The order of a token is `TILE` times the number of its tile, plus its place in the tile.
    """

    corner: Tensor  # [M, 3] float64 lowest corner of the box, world, metres
    step: Tensor  # [M, 3] float64 metres per unit
    start: Tensor  # [M] int64 first token in its block
    count: Tensor  # [M] int32 tokens
    block: Tensor  # [M] int64 number of the block

    @staticmethod
    def of(blocks: Sequence[MemoryBlock], device: torch.device) -> Tiles:
        """Tiles of blocks given oldest first."""
        newest_first = list(enumerate(blocks))[::-1]
        low = [b.anchor + b.low.astype(np.float64) for _, b in newest_first]
        count = [np.diff(b.first) for _, b in newest_first]
        parts = (
            np.concatenate(low or [np.zeros((0, 3))]),
            np.concatenate([b.step for _, b in newest_first] or [np.zeros((0, 3), np.float32)]).astype(np.float64),
            np.concatenate([b.first[:-1] for _, b in newest_first] or [np.zeros(0, np.int32)]).astype(np.int64),
            np.concatenate(count or [np.zeros(0, np.int32)]).astype(np.int32),
            np.repeat(np.array([i for i, _ in newest_first], np.int64), [len(c) for c in count]),
        )
        return Tiles(*(torch.from_numpy(part).to(device) for part in parts))
