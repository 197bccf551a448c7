"""Worlds with versions: what was committed can be gone back to, branched and named."""

import sys
from datetime import UTC, datetime, timedelta

import endless_writer
import pytest
from endless_writer import MODEL, is_step, made_up, same_block

from mirage_env.errors import CacheExistsError, CacheNotFoundError, InvalidOptionError, MissingPackageError
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import WorldHistory


def walk(state, count):
    steps = []
    for _ in range(count):
        chunk, state = made_up(state.chunk + 1, state.memory)
        steps.append((state, chunk))
    return steps


@pytest.fixture
def history(tmp_path):
    pytest.importorskip("icechunk", reason="icechunk is not installed; pip install 'mirage-env[cloud]'")
    chunk, state = made_up(0, LatentMemory.empty(endless_writer.CONFIG))
    return WorldHistory.create(tmp_path / "history", state, MODEL, [chunk], frames=True)


def test_every_version_can_be_loaded(history, tmp_path):
    ids = [history.commit([step]) for step in walk(history.load(MODEL), 4)]
    for n, version in enumerate(ids, 1):
        assert is_step(history.load(MODEL, version), n)
        assert is_step(history.load(MODEL, version, lazy=True), n)
    again = WorldHistory.open(tmp_path / "history")
    assert is_step(again.load(MODEL), 4)
    found = again.versions()
    assert [v.id for v in found][:-1] == ids[::-1]
    assert [v.message for v in found] == ["chunk 4", "chunk 3", "chunk 2", "chunk 1", "chunk 0"]
    assert is_step(WorldHistory.open(tmp_path / "history").load(MODEL, again.commit(walk(again.load(MODEL), 3))), 7)


def test_branches_go_their_own_ways(history):
    steps = walk(history.load(MODEL), 3)
    history.commit(steps[:2])
    history.tag("fork")
    history.branch("other", "fork")
    history.commit(steps[2:])
    other = history.load(MODEL, "other")
    chunk, ahead = made_up(3, other.memory, points=77)
    history.commit([(ahead, chunk)], branch="other", message="another way")
    assert is_step(history.load(MODEL), 3)
    assert is_step(history.load(MODEL, "fork"), 2)
    loaded = history.load(MODEL, "other")
    assert all(map(same_block, loaded.memory.blocks, ahead.memory.blocks))
    assert history.versions("other")[0].message == "another way"
    assert (history.branches(), history.tags()) == ({"main", "other"}, {"fork"})


def test_going_back_and_on(history):
    steps = walk(history.load(MODEL), 3)
    first = history.commit(steps[:1])
    history.commit(steps[1:])
    history.go_back(first)
    assert is_step(history.load(MODEL), 1)
    history.commit(steps[1:2])
    assert is_step(history.load(MODEL), 2)


def test_old_versions_can_be_given_up(history):
    steps = walk(history.load(MODEL), 4)
    ids = [history.commit([step]) for step in steps]
    history.tag("kept", ids[1])
    later = datetime.now(UTC) + timedelta(hours=1)
    assert ids[0] in history.expire(later)
    assert history.collect(later) > 0
    assert is_step(history.load(MODEL), 4)
    assert is_step(history.load(MODEL, "kept"), 2)


def test_what_cannot_be_is_refused(history, tmp_path):
    state = history.load(MODEL)
    steps = walk(state, 2)
    with pytest.raises(InvalidOptionError, match="at chunk 0, the state given is at 2"):
        history.commit(steps[1:])
    with pytest.raises(InvalidOptionError, match="no step was given"):
        history.commit([])
    with pytest.raises(InvalidOptionError, match=r"no branch 'nowhere'; choose one of \['main'\]"):
        history.commit(steps, branch="nowhere")
    with pytest.raises(InvalidOptionError, match="no version 'nowhere'"):
        history.load(MODEL, "nowhere")
    with pytest.raises(InvalidOptionError, match="'main' is taken"):
        history.tag("main")
    with pytest.raises(CacheExistsError):
        WorldHistory.create(tmp_path / "history", state, MODEL)
    with pytest.raises(CacheNotFoundError):
        WorldHistory.open(tmp_path / "nowhere")
    assert is_step(history.load(MODEL), 0)


def test_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "icechunk", None)
    with pytest.raises(MissingPackageError, match=r"needs icechunk; pip install 'mirage-env\[cloud\]'"):
        WorldHistory.open(tmp_path)
