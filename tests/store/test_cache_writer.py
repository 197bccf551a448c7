"""The writer hands every step on at once, loses nothing that it acknowledged, and says what is wrong."""

import contextlib
import logging
import os
import shutil
import threading
import time

import endless_writer
import pytest
from clean_processes import clean_processes
from endless_writer import MODEL, is_step, made_up
from kills import kill_writers
from worlds import cameras_from, open_minded_model, walk

from mirage_env.errors import CacheBusyError, InvalidOptionError, StoreError
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheWriter, load_frames, load_world, open_cache
from mirage_env.store.backends.local_folder import Folder


@pytest.fixture
def begun(tmp_path):
    """A cache of step 0, its state, and its writer."""
    chunk, state = made_up(0, LatentMemory.empty(endless_writer.CONFIG))
    writer = CacheWriter.create(tmp_path / "world.zarr", state, MODEL, [chunk], queue=2)
    yield writer
    with contextlib.suppress(StoreError):
        writer.close()


def steps(writer, count):
    """The next steps of a writer's world."""
    state = writer.state
    for _ in range(count):
        chunk, state = made_up(state.chunk + 1, state.memory)
        yield state, chunk


class Gate:
    """Holds writing to folders until it is opened."""

    def __init__(self, monkeypatch):
        self.open, self.reached = threading.Event(), threading.Event()
        write = Folder.write_many

        def held(folder, files):
            self.reached.set()
            assert self.open.wait(120)
            write(folder, files)

        monkeypatch.setattr(Folder, "write_many", held)


def test_append_does_not_wait_for_the_disk(begun, monkeypatch):
    gate = Gate(monkeypatch)
    (first, chunk), (second, chunk2) = steps(begun, 2)
    begun.append(first, chunk)
    begun.append(second, chunk2)
    assert gate.reached.wait(120)
    assert (begun.state, begun.pending, begun.committed) == (second, 2, 0)
    assert load_world(begun.path, MODEL).chunk == 0
    gate.open.set()
    begun.flush()
    assert (begun.pending, begun.committed) == (0, 2)
    assert is_step(load_world(begun.path, MODEL), 2)


def test_full_queue_blocks_with_one_warning_and_drops_nothing(begun, monkeypatch, caplog):
    gate = Gate(monkeypatch)
    done = threading.Event()

    def append_all():
        for state, chunk in steps(begun, 6):
            begun.append(state, chunk)
        done.set()

    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=append_all)
        thread.start()
        deadline = time.monotonic() + 120.0
        while not any("steps wait for the disk" in message for message in caplog.messages):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not done.is_set()
        gate.open.set()
        thread.join(120)
        begun.flush()
    assert done.is_set()
    assert sum("steps wait for the disk" in message for message in caplog.messages) == 1
    assert is_step(load_world(begun.path, MODEL), 6)


def test_wrong_steps_are_refused_at_once(begun):
    (first, chunk), (second, chunk2) = steps(begun, 2)
    with pytest.raises(InvalidOptionError, match="at chunk 0, the state given is at 2"):
        begun.append(second, chunk2)
    with pytest.raises(InvalidOptionError, match="do not end at the state's camera"):
        begun.append(first, chunk2)
    begun.append(first, chunk)
    with pytest.raises(InvalidOptionError, match="at chunk 1, the state given is at 1"):
        begun.append(first, chunk)
    for numbers in ({"queue": 0}, {"together": 0}):
        with pytest.raises(InvalidOptionError, match="queue is"):
            CacheWriter.create(begun.path.with_name("other.zarr"), first, MODEL, overwrite=True, **numbers)
    CacheWriter.open(begun.path.with_name("other.zarr"), MODEL).close()


def test_failure_is_raised_by_the_next_call_and_loses_nothing_acknowledged(begun, monkeypatch):
    (first, chunk), (second, chunk2), (third, chunk3) = steps(begun, 3)
    begun.append(first, chunk)
    begun.flush()
    failing = pytest.MonkeyPatch()

    def full(*_):
        raise OSError(28, "No space left on device")

    failing.setattr(Folder, "write_many", full)
    begun.append(second, chunk2)
    with pytest.raises(StoreError, match=r"No space left on device.*All up to chunk 1 is safe") as caught:
        begun.flush()
    assert isinstance(caught.value.__cause__, OSError)
    failing.undo()
    for call in (begun.flush, lambda: begun.append(third, chunk3), begun.close):
        with pytest.raises(StoreError, match="No space left"):
            call()
    assert is_step(load_world(begun.path, MODEL), 1)
    with CacheWriter.open(begun.path, MODEL) as again:
        again.append(second, chunk2)
        again.append(third, chunk3)
    assert is_step(load_world(begun.path, MODEL), 3)


def test_closed_writer_takes_nothing_and_leaves_no_thread(begun):
    begun.close()
    begun.close()
    with pytest.raises(StoreError, match="is closed"):
        begun.append(*next(steps(begun, 1)))
    with pytest.raises(StoreError, match="is closed"):
        begun.flush()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cache-writer")]


def test_second_writer_is_refused_until_the_first_is_gone(begun):
    with pytest.raises(CacheBusyError, match="another writer has"):
        CacheWriter.open(begun.path, MODEL)
    begun.append(*next(steps(begun, 1)))
    begun.close()
    CacheWriter.open(begun.path, MODEL).close()
    assert is_step(load_world(begun.path, MODEL), 1)


def test_durable_writer_syncs_every_file_before_the_marker(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def remember(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", remember)
    chunk, state = made_up(0, LatentMemory.empty(endless_writer.CONFIG))
    with CacheWriter.create(tmp_path / "world.zarr", state, MODEL, [chunk], fsync="commit") as writer:
        writer.flush()
        synced.clear()
        writer.append(*next(steps(writer, 1)))
        writer.flush()
    names = [os.path.relpath(name, tmp_path / "world.zarr") for name in synced]
    marker = names.index("commit/zarr.json.partial")
    assert {"tokens/position/c.1.0", "tokens/position", "blocks/c.0.0.partial", "state/noise/c.1.0"} <= set(
        names[:marker]
    )
    assert names[marker + 1] == "commit"
    synced.clear()
    with CacheWriter.open(tmp_path / "world.zarr", MODEL) as writer:
        writer.append(*next(steps(writer, 1)))
    assert not synced


# What a kill leaves


@pytest.mark.parametrize("name", ["world.zarr", "world.zip"])
def test_killed_writer_leaves_whole_steps(tmp_path, name):
    path = tmp_path / name
    endless_writer.start_world(path)
    kill_writers(str(path), times=5)
    with CacheWriter.open(path, MODEL) as writer:
        last = writer.state.chunk
        writer.append(*next(steps(writer, 1)))
    assert is_step(load_world(path, MODEL), last + 1)
    assert not list(tmp_path.rglob("*.partial"))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_zip_that_is_written_to_is_found_again_after_a_kill(tmp_path):
    path = tmp_path / "world.zip"
    endless_writer.start_world(path)
    with CacheWriter.open(path, MODEL) as writer:
        writer.append(*next(steps(writer, 1)))
        writer.flush()
        left = shutil.copytree(tmp_path, tmp_path.with_name("left"))  # as a kill would leave it
    assert sorted(p.name for p in left.iterdir()) == ["world.zip", "world.zip.writing"]
    assert is_step(load_world(left / "world.zip", MODEL), 1)
    with CacheWriter.open(left / "world.zip", MODEL) as writer:
        assert is_step(writer.state, 1)
    assert [p.name for p in left.iterdir()] == ["world.zip"]
    assert is_step(load_world(left / "world.zip", MODEL), 1)


def test_leftovers_of_a_kill_are_removed(begun, tmp_path):
    begun.append(*next(steps(begun, 1)))
    begun.close()
    before = {p for p in begun.path.rglob("*") if p.is_file()}
    for name in ("tokens/position/c.99.0", "state/noise/c.7.0", "blocks/c.3.0.partial"):
        (begun.path / name).write_bytes(b"half")
    with CacheWriter.open(begun.path, MODEL) as writer:
        writer.flush()
        left = {p for p in begun.path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert left == before


# Other troubles


def test_removed_cache_is_noticed_and_not_made_again(begun):
    begun.flush()
    shutil.rmtree(begun.path)
    begun.append(*next(steps(begun, 1)))
    with pytest.raises(StoreError, match="was removed or replaced"):
        begun.flush()
    assert not begun.path.exists()


@pytest.mark.parametrize(("trouble", "says"), [("size", "File too large"), ("permission", "Permission denied")])
def test_trouble_of_the_disk_loses_nothing_acknowledged(begun, trouble, says):
    begun.close()
    path = str(begun.path)
    context = clean_processes()
    ours, theirs = context.Pipe(duplex=False)
    with ours, theirs:
        writer = context.Process(target=endless_writer.write_into_trouble, args=(path, theirs, trouble))
        writer.start()
        try:
            assert ours.poll(300), "nothing was said"
            said = ours.recv()
        finally:
            writer.kill()
            writer.join()
            writer.close()
    assert says in said
    assert "All up to chunk 1 is safe" in said
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o755)
    assert is_step(load_world(path, MODEL), 1)
    with CacheWriter.open(path, MODEL) as writer:
        writer.append(*next(steps(writer, 1)))
    assert is_step(load_world(path, MODEL), 2)


def test_log_and_table_stay_within_their_share(begun, monkeypatch):
    monkeypatch.setattr("mirage_env.store.format.commits.MOST_LOG", 500)
    monkeypatch.setattr("mirage_env.store.format.commits.MOST_TABLE", 8)
    logged = []
    for state, chunk in steps(begun, 40):
        begun.append(state, chunk)
        begun.flush()
        marker = begun._writing.marker
        rows = [row for run in marker.blocks for row in run]
        logged.append(sum(stop - start for start, stop in marker.log))
        assert max(rows) - min(rows) <= 2 * 8 + 1
    assert 100 < max(logged) <= 500 + 300
    assert is_step(load_world(begun.path, MODEL), 40)


def test_steps_of_one_commit_are_the_world_and_path_of_single_ones(begun, monkeypatch):
    chunk, state = made_up(0, LatentMemory.empty(endless_writer.CONFIG))
    commits, commit = [], Folder.commit
    monkeypatch.setattr(Folder, "commit", lambda *given: (commits.append(1), commit(*given)))
    with CacheWriter.create(begun.path.with_name("many.zarr"), state, MODEL, [chunk], True, together=4) as many:
        begin = len(commits)
        for state, chunk in steps(many, 6):
            many.append(state, chunk)
        assert (many.pending - 2) in (0, 4)  # two wait for others, or for this:
        many.flush()
        assert (many.pending, many.committed, len(commits) - begin) == (0, 6, 2)
        for state, chunk in steps(many, 3):
            many.append(state, chunk)
    for state, chunk in steps(begun, 9):
        begun.append(state, chunk)
    begun.flush()
    assert is_step(load_world(many.path, MODEL), 9)
    poses = [[c.T_world_cam.tolist() for c in open_cache(path).cameras] for path in (many.path, begun.path)]
    assert poses[0] == poses[1]
    assert len(load_frames(many.path)) == len(poses[0])


def test_walk_of_a_real_model_is_on_disk_when_it_closes(tmp_path):
    model = open_minded_model(merge_tokens=60)
    walked = walk(model, 1)
    with CacheWriter.create(tmp_path / "world.zip", walked[0][1], model, [walked[0][0]]) as writer:
        for _ in range(3):
            chunk, state = model.step(writer.state, cameras_from(writer.state.camera, model))
            writer.append(state, chunk)
    assert open_cache(tmp_path / "world.zip").chunks == 3
    assert [p.name for p in tmp_path.iterdir()] == ["world.zip"]
