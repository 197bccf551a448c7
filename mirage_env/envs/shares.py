"""Worlds that walk at the same time, in shares of one thread each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

from mirage_env.camera import Camera

StateT = TypeVar("StateT")
ResultT = TypeVar("ResultT")


def walk_in_shares(
    walk: Callable[[Sequence[StateT], Sequence[Sequence[Camera]]], list[ResultT]],
    pool: ThreadPoolExecutor,
    states: Sequence[StateT],
    paths: Sequence[Sequence[Camera]],
    shares: int,
) -> list[ResultT]:
    """Call `walk` for `shares` parts of the worlds, each in a thread of `pool`; the results are in their order."""
    cores = torch.get_num_threads()

    def walk_share(first: int, last: int) -> list[ResultT]:
        torch.set_num_threads(1)  # of this thread, and of those that will be started
        return walk(states[first:last], paths[first:last])

    bounds = [len(states) * i // shares for i in range(shares + 1)]
    try:
        parts = list(pool.map(walk_share, *zip(*pairwise(bounds), strict=True)))
    finally:
        torch.set_num_threads(cores)
    return [result for part in parts for result in part]
