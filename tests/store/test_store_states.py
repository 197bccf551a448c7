"""Random operations on worlds and their caches, against a slow model of lists."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from endless_writer import CONFIG, MODEL, block_of, confirmed, made_up, same_block
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from mirage_env.camera import Camera
from mirage_env.errors import CacheBusyError
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheWriter, compact, load_world, open_cache, save_world
from mirage_env.tokens.blocks import MemoryBlock


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory):
    """A place for the worlds that pytest removes, with that of other tests: thousands of files take seconds."""
    Worlds.folder = tmp_path_factory.mktemp("worlds")


KINDS = st.sampled_from(["new", "merge", "confirm", "forget", "thin", "same"])
VIEW = Camera.from_fov(1.2, 32, 32)


@dataclass
class Slow:
    """What a world should hold: one entry per token, in lists of lists."""

    chunk: int
    blocks: list[list[tuple]]

    @staticmethod
    def of(state):
        return Slow(state.chunk, [tokens_of(block) for block in state.memory.blocks])


def tokens_of(block):
    """Every token of a block, as plain numbers."""
    rows, true = block.frames.row[block.frame].tolist(), block.frames.true[block.frame].tolist()
    parts = (
        block.positions().tolist(),
        block.values().tolist(),
        block.footprint.tolist(),
        block.births().tolist(),
        block.cell.tolist(),
        block.confidence.tolist(),
        rows,
        true,
    )
    return [repr(token) for token in zip(*parts, strict=True)]


def stepped(state, kind, seed):
    """The next step of a world, in which one thing happens to its memory."""
    n = state.chunk + 1
    chunk, after = made_up(n, state.memory, points=30, keep=0)
    blocks = list(state.memory.blocks)
    if kind == "new":
        blocks.append(block_of(n + seed, VIEW, 5 + seed % 90))
    elif kind == "merge" and len(blocks) > 2 and blocks[-2].may_join(blocks[-1]):
        blocks[-2:] = [MemoryBlock.join(blocks[-2:])]
    elif kind == "confirm":
        at = seed % len(blocks)
        blocks[at] = confirmed(blocks[at], n + seed)
    elif kind == "forget" and len(blocks) > 2:
        del blocks[1 + seed % (len(blocks) - 1)]
    elif kind == "thin":
        at = seed % len(blocks)
        mask = np.random.default_rng(seed).random(len(blocks[at])) < 0.7
        mask[0] = True
        blocks[at] = blocks[at].keep(mask)
    return chunk, replace(after, memory=replace(after.memory, blocks=tuple(blocks)))


class Worlds(RuleBasedStateMachine):
    """Worlds that walk, fork and are stored; writers that close, fail to close, and come back."""

    states = Bundle("states")
    folder: Path

    @initialize(target=states)
    def begin(self):
        self.root = Path(tempfile.mkdtemp(dir=self.folder))
        self.caches = 0
        self.slow = {}
        chunk, state = made_up(0, LatentMemory.empty(CONFIG), points=30)
        self.remember(state)
        self.path = self.root / "main.zarr"
        self.writer = CacheWriter.create(self.path, state, MODEL, [chunk])
        return state

    def remember(self, state):
        self.slow[id(state)] = (state, Slow.of(state))

    def check(self, state, expected):
        slow = self.slow[id(expected)][1]
        assert Slow.of(state) == slow
        for a, b in zip(state.memory.blocks, expected.memory.blocks, strict=True):
            assert same_block(a, b)
            assert np.array_equal(a.bounds, b.bounds)
            assert a.nbytes == b.nbytes

    @rule(target=states, kind=KINDS, seed=st.integers(0, 999))
    def append(self, kind, seed):
        chunk, state = stepped(self.writer.state, kind, seed)
        self.remember(state)
        self.writer.append(state, chunk)
        return state

    @rule(target=states, state=states, kind=KINDS, seed=st.integers(0, 999))
    def fork(self, state, kind, seed):
        _, fork = stepped(state, kind, seed)
        self.remember(fork)
        self.check(state, state)
        return fork

    @rule(state=states)
    def read_out(self, state):
        expected = state.memory.read([VIEW], state.chunk)
        save_world(self.root / "look.zarr", state, MODEL, overwrite=True)
        seen = load_world(self.root / "look.zarr", MODEL, lazy=True).memory.read([VIEW], state.chunk)
        for name in ("latent", "observed", "depth", "age"):
            assert getattr(seen, name).equal(getattr(expected, name)), name

    @rule(target=states, state=states, lazy=st.booleans(), suffix=st.sampled_from(["zarr", "zip"]))
    def save_and_load(self, state, lazy, suffix):
        self.caches += 1
        path = self.root / f"{self.caches}.{suffix}"
        save_world(path, state, MODEL)
        assert open_cache(path).points == state.memory.points
        loaded = load_world(path, MODEL, lazy=lazy)
        self.remember(loaded)
        self.check(loaded, state)
        return loaded

    @rule()
    def look_at_the_cache(self):
        self.writer.flush()
        self.check(load_world(self.path, MODEL), self.writer.state)
        assert open_cache(self.path).nbytes == self.writer.state.memory.nbytes

    @rule(compacted=st.booleans())
    def close_and_open(self, compacted):
        expected = self.writer.state
        self.writer.close(compact=compacted)
        self.come_back(expected)

    @rule()
    def kill(self):
        """The files as a kill leaves them, with what was being written beside them."""
        left = self.root / f"killed-{len(list(self.root.iterdir()))}.zarr"
        self.writer.flush()
        shutil.copytree(self.path, left)
        (left / "tokens/position/c.999.0").write_bytes(b"half")
        (left / "blocks/c.0.0.partial").write_bytes(b"half")
        expected = self.writer.state
        self.writer.close()
        self.path = left
        self.come_back(expected)

    def come_back(self, expected):
        self.writer = CacheWriter.open(self.path, MODEL)
        assert isinstance(refusal(lambda: CacheWriter.open(self.path, MODEL)), CacheBusyError)
        self.remember(self.writer.state)
        self.check(self.writer.state, expected)

    @rule()
    def compact_it(self):
        expected = self.writer.state
        self.writer.close(compact=False)
        compact(self.path)
        self.come_back(expected)

    def teardown(self):
        if hasattr(self, "writer"):
            self.writer.close()
            for state, slow in self.slow.values():
                assert Slow.of(state) == slow, "a world changed after it was made"


def refusal(call):
    try:
        call()
    except CacheBusyError as error:
        return error
    return None


TestWorlds = Worlds.TestCase
TestWorlds.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
