"""Caches in object stores: a real S3-compatible server, and objects in memory."""

import time
from pathlib import Path

import endless_writer
import object_server
import pytest
from endless_writer import MODEL, is_step, made_up
from kills import kill_writers

from mirage_env.errors import (
    CacheBusyError,
    CacheExistsError,
    CacheNotFoundError,
    InvalidOptionError,
    MissingPackageError,
    StoreError,
)
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheWriter, compact, copy_cache, load_frames, load_world, open_cache, save_world

pytest.importorskip("obstore", reason="obstore is not installed; pip install 'mirage-env[cloud]'")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a running server."""
    if object_server.program() is None:
        pytest.skip(object_server.NOT_INSTALLED)
    with object_server.object_server(tmp_path_factory.mktemp("objects")) as address:
        yield address


@pytest.fixture(params=["memory", "s3"])
def place(request, monkeypatch):
    """URL of a place without a cache."""
    name = f"{time.monotonic_ns():x}"
    if request.param == "memory":
        return f"memory://{name}/world"
    for key, value in object_server.KEYS.items():
        monkeypatch.setenv(key, value)
    return f"s3://worlds/{name}/world?endpoint={request.getfixturevalue('server')}"


def first():
    return made_up(0, LatentMemory.empty(endless_writer.CONFIG))


def go_on(writer, count):
    for _ in range(count):
        chunk, state = made_up(writer.state.chunk + 1, writer.state.memory)
        writer.append(state, chunk)


def test_world_is_kept_in_objects(place, tmp_path):
    chunk, state = first()
    with CacheWriter.create(place, state, MODEL, [chunk], frames=True) as writer:
        go_on(writer, 3)
    with CacheWriter.open(place, MODEL) as writer:
        go_on(writer, 4)
        writer.flush()
        assert is_step(load_world(place, MODEL), 7)
    compact(place)
    assert is_step(load_world(place, MODEL), 7)
    assert is_step(load_world(place, MODEL, lazy=True), 7)
    info = open_cache(place)
    assert (info.chunks, len(info.cameras), info.path) == (7, 32, place)
    assert len(load_frames(place)) == 32
    copy_cache(place, tmp_path / "copy.zip")
    copy_cache(tmp_path / "copy.zip", place, overwrite=True)
    for copy in (tmp_path / "copy.zip", place):
        assert is_step(load_world(copy, MODEL), 7)


def test_loser_of_a_race_is_refused_and_nothing_is_lost(place):
    chunk, state = first()
    old = CacheWriter.create(place, state, MODEL, [chunk])
    go_on(old, 2)
    old.flush()
    new = CacheWriter.open(place, MODEL)
    go_on(old, 1)
    with pytest.raises(StoreError, match="another writer has the cache") as caught:
        old.flush()
    assert isinstance(caught.value.__cause__, CacheBusyError)
    go_on(new, 3)
    with pytest.raises(StoreError):
        old.close()
    new.close()
    assert is_step(load_world(place, MODEL), 5)


def test_of_two_that_begin_one_is_refused(place, monkeypatch):
    from mirage_env.store.backends.object_store import Bucket

    chunk, state = first()
    sizes = Bucket.sizes
    calls = []

    def slow(bucket):
        found = sizes(bucket)
        calls.append(1)
        if len(calls) == 1:
            save_world(place, state, MODEL, [chunk])  # somebody else is faster
        return found

    monkeypatch.setattr(Bucket, "sizes", slow)
    with pytest.raises(CacheBusyError):
        save_world(place, state, MODEL, [chunk])
    assert is_step(load_world(place, MODEL), 0)


def test_what_is_there_is_not_overwritten_unasked(place):
    chunk, state = first()
    with pytest.raises(CacheNotFoundError, match="no cache at"):
        load_world(place, MODEL)
    with pytest.raises(CacheNotFoundError, match="no cache at"):
        CacheWriter.open(place, MODEL)
    save_world(place, state, MODEL, [chunk])
    with pytest.raises(CacheExistsError, match="already"):
        save_world(place, state, MODEL, [chunk])
    save_world(place, state, MODEL, [chunk], overwrite=True)
    assert is_step(load_world(place, MODEL), 0)


def test_only_a_cache_that_holds_nothing_else_is_overwritten(place):
    import obstore

    from mirage_env.store.backends.object_store import Bucket

    chunk, state = first()
    bucket = Bucket.of(place)
    for objects in (
        {"notes.txt": b"years of work"},
        {"zarr.json": b'{"attributes": {"format": "mirage_episode"}}'},
        {"commit/zarr.json": b'{"attributes": {}}'},
    ):
        for key, content in objects.items():
            obstore.put(bucket._store, key, content)
        there = bucket.sizes()
        with pytest.raises(CacheExistsError, match="it is no cache"):
            save_world(place, state, MODEL, [chunk], overwrite=True)
        assert bucket.sizes() == there
        bucket.delete(there)
    save_world(place, state, MODEL, [chunk])
    obstore.put(bucket._store, "tokens/notes.txt", b"years of work")
    there = bucket.sizes()
    with pytest.raises(CacheExistsError, match=r"belongs to no cache: tokens/notes\.txt"):
        CacheWriter.create(place, state, MODEL, [chunk], overwrite=True)
    assert bucket.sizes() == there
    assert is_step(load_world(place, MODEL), 0)


def test_beginning_of_a_killed_writer_is_overwritten(place):
    from mirage_env.store.backends.object_store import BEGUN, Bucket

    chunk, state = first()
    Bucket.of(place).commit("commit/zarr.json", BEGUN % b"killed")
    with pytest.raises(CacheExistsError):
        save_world(place, state, MODEL, [chunk])
    save_world(place, state, MODEL, [chunk], overwrite=True)
    assert is_step(load_world(place, MODEL), 0)


def test_path_made_of_a_url_is_that_url(place):
    chunk, state = first()
    save_world(Path(place), state, MODEL, [chunk])
    assert open_cache(place).chunks == 0


def test_killed_writer_leaves_whole_steps(place):
    if place.startswith("memory"):
        pytest.skip("objects in memory go with their process")
    chunk, state = first()
    CacheWriter.create(place, state, MODEL, [chunk], frames=True).close()
    kill_writers(place, times=3, environment=object_server.KEYS)
    with CacheWriter.open(place, MODEL) as writer:
        last = writer.state.chunk
        go_on(writer, 1)
    assert is_step(load_world(place, MODEL), last + 1)


def test_wrong_urls_are_refused_with_the_reason(server):
    with pytest.raises(InvalidOptionError, match="colour"):
        open_cache("s3://worlds/a?colour=red")
    chunk, state = first()
    with pytest.raises(StoreError, match="nowhere"):
        save_world(f"s3://nowhere/a?endpoint={server}&access_key_id=a&secret_access_key=b", state, MODEL, [chunk])


def test_missing_bucket_is_not_taken_for_a_missing_cache(server):
    with pytest.raises(StoreError, match="no bucket") as caught:
        open_cache(
            f"s3://nowhere/a?endpoint={server}&access_key_id=mirage&secret_access_key=mirage-secret&region=us-east-1"
        )
    assert not isinstance(caught.value, CacheNotFoundError)


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_commit_whose_connection_breaks_is_tried_again_and_happens_once(place, monkeypatch, lost):
    import obstore
    from obstore.exceptions import GenericError

    from mirage_env.store.backends import object_store

    chunk, state = first()
    writer = CacheWriter.create(place, state, MODEL, [chunk])
    writer.flush()
    monkeypatch.setattr(object_store, "PAUSES", (0.0, 0.0, None))
    put, broken = obstore.put, []

    def breaking(store, key, *arguments, **options):
        if key == object_store.KEY and not broken:
            broken.append(key)
            if lost == "answer":
                put(store, key, *arguments, **options)
            raise GenericError("connection reset by peer")
        return put(store, key, *arguments, **options)

    monkeypatch.setattr(obstore, "put", breaking)
    go_on(writer, 2)
    writer.close()
    assert broken
    assert is_step(load_world(place, MODEL), 2)


def test_missing_library_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mirage_env.store.backends.object_store", None)
    with pytest.raises(MissingPackageError, match=r"needs obstore; pip install 'mirage-env\[cloud\]'"):
        open_cache("memory://a")
