"""Killing writers at random moments, and looking at what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping

import endless_writer
import numpy as np
from clean_processes import clean_processes

from mirage_env.store import load_frames, load_world, open_cache


def kill_writers(path: str, times: int, environment: Mapping[str, str] | None = None, seed: int = 0) -> int:
    """Start a writer on a cache and kill it (SIGKILL) within a tenth of a second, so many times; the last step.

    Raises:
        AssertionError: an acknowledged step is gone, or a step is not whole.
    """
    context = clean_processes()
    rng = np.random.default_rng(seed)
    last = load_world(path, endless_writer.MODEL).chunk
    for _ in range(times):
        ours, theirs = context.Pipe(duplex=False)
        with ours, theirs:
            writer = context.Process(target=endless_writer.write_for_ever, args=(path, theirs, dict(environment or {})))
            writer.start()
            try:
                assert ours.poll(300), "the writer did not start"
                time.sleep(rng.uniform(0.0, 0.1))
            finally:
                writer.kill()
                writer.join()
                writer.close()
            written = last
            while ours.poll():
                written = ours.recv()
        state = load_world(path, endless_writer.MODEL)
        # Up to three steps wait between two acknowledgements.
        assert last < written <= state.chunk <= written + 3, f"{written} acknowledged, {state.chunk} there"
        assert endless_writer.is_step(state, state.chunk), f"step {state.chunk} is not whole"
        last = state.chunk
        cameras = open_cache(path).cameras
        assert len(load_frames(path)) == len(cameras) == endless_writer.FRAMES * (last + 1)
    return last
