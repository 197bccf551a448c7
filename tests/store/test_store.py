"""The store gives back what it was given, at any moment of its life, or says why not."""

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from endless_writer import same_block, same_movers
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import true_rows
from tiny import tiny_world_model
from worlds import cameras_from, open_minded_model, start, walk

from mirage_env.errors import (
    CacheBusyError,
    CacheCorruptError,
    CacheExistsError,
    CacheModelError,
    CacheNotFoundError,
    InvalidOptionError,
    StoreError,
)
from mirage_env.images import frames_to_uint8
from mirage_env.memory.latent import LatentMemory, PointMemory
from mirage_env.store import CacheWriter, compact, copy_cache, load_frames, load_world, open_cache, save_world

DATA = Path(__file__).parents[1] / "data"
STEPS = 3


@pytest.fixture(scope="module")
def model():
    return open_minded_model(merge_tokens=60)


@pytest.fixture(scope="module")
def walked(model):
    return walk(model, STEPS)


@pytest.fixture(scope="module")
def original(tmp_path_factory, model, walked):
    path = tmp_path_factory.mktemp("original") / "world.zarr"
    save_world(path, walked[-1][1], model, [chunk for chunk, _ in walked], frames=True)
    return path


@pytest.fixture
def cache(tmp_path, original):
    """A cache of the whole walk with its frames."""
    return shutil.copytree(original, tmp_path / "world.zarr")


def assert_same_world(a, b):
    assert a.chunk == b.chunk
    for name in ("latents", "noise"):
        first, second = getattr(a, name), getattr(b, name)
        assert first.dtype == second.dtype
        assert torch.equal(first, second), name
    assert_same_cameras([a.camera], [b.camera])
    assert a.prompt == b.prompt
    assert len(a.references) == len(b.references)
    for first, second in zip(a.references, b.references, strict=True):
        assert torch.equal(first.latent, second.latent)
        assert_same_cameras([first.camera], [second.camera])
    assert a.guidance == b.guidance
    assert (a.shown is None) == (b.shown is None)
    assert a.shown is None or torch.equal(a.shown, b.shown)
    assert same_movers(a.movers, b.movers)
    assert a.floor == b.floor
    names = {"memory", "camera", "latents", "chunk", "noise", "prompt", "references", "guidance", "shown"}
    assert {f.name for f in fields(a)} == names | {"front", "movers", "floor"}
    for field in fields(LatentMemory):
        if field.name != "blocks":
            assert getattr(a.memory, field.name) == getattr(b.memory, field.name), field.name
    assert len(a.memory.blocks) == len(b.memory.blocks)
    assert all(map(same_block, a.memory.blocks, b.memory.blocks))


def assert_same_cameras(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.T_world_cam, b.T_world_cam)
        assert np.array_equal(a.K_image, b.K_image)
        assert (a.height, a.width) == (b.height, b.width)


# Round trips


@settings(max_examples=8)
@given(
    steps=st.integers(0, 3),
    seed=st.integers(0, 2**31),
    max_bytes=st.sampled_from([0, 3000]),
    lazy=st.booleans(),
    frames=st.booleans(),
    suffix=st.sampled_from(["zarr", "zip"]),
)
def test_loaded_world_goes_on_as_the_saved_one(tmp_path_factory, steps, seed, max_bytes, lazy, frames, suffix):
    model = open_minded_model(max_bytes=max_bytes, moves=True)
    walked = walk(model, steps, seed)
    state, path = walked[-1][1], tmp_path_factory.mktemp("cache") / f"world.{suffix}"
    save_world(path, state, model, [chunk for chunk, _ in walked], frames)
    loaded = load_world(path, model, lazy=lazy)
    cameras = cameras_from(state.camera, model)
    (expected, after), (chunk, after_loaded) = model.step(state, cameras), model.step(loaded, cameras)
    assert torch.equal(chunk.frames, expected.frames)
    assert state.movers
    assert_same_world(after_loaded, after)
    assert_same_world(loaded, state)


@pytest.mark.parametrize(("max_bytes", "features"), [(0, "int8"), (3000, "int8"), (0, "float16")])
def test_appended_cache_holds_what_a_saved_one_holds(tmp_path, max_bytes, features):
    model = open_minded_model(max_bytes=max_bytes, merge_tokens=60, moves=True)
    layout = replace(model.config.memory, features=features)
    model = replace(model, config=replace(model.config, memory=layout))
    walked = walk(model, 8)
    with CacheWriter.create(tmp_path / "appended.zarr", walked[0][1], model, [walked[0][0]], frames=True) as writer:
        for chunk, state in walked[1:]:
            writer.append(state, chunk)
            writer.flush()
            assert_same_world(load_world(writer.path, model), state)
    save_world(tmp_path / "saved.zarr", walked[-1][1], model, [chunk for chunk, _ in walked], frames=True)
    assert_same_world(load_world(writer.path, model), load_world(tmp_path / "saved.zarr", model))
    assert np.array_equal(load_frames(writer.path), load_frames(tmp_path / "saved.zarr"))
    appended, saved = open_cache(writer.path), open_cache(tmp_path / "saved.zarr")
    assert (appended.blocks, appended.points, appended.chunks) == (saved.blocks, saved.points, saved.chunks)
    assert np.array_equal(appended.bounds, saved.bounds)
    assert_same_cameras(appended.cameras, saved.cameras)


def test_writer_goes_on_after_it_was_closed(tmp_path, model, walked):
    path = tmp_path / "world.zarr"
    CacheWriter.create(path, walked[0][1], model, [walked[0][0]]).close()
    for chunk, state in walked[1:]:
        with CacheWriter.open(path, model) as writer:
            writer.append(state, chunk)
    assert_same_world(load_world(path, model), walked[-1][1])
    written = len(list((path / "tokens/position").glob("c.*")))
    assert written == len(walked[-1][1].memory.blocks), "a block was written twice"


def test_settings_of_a_memory_that_are_not_its_models_are_kept(tmp_path, model):
    memory = start(model)[1].memory
    memory = replace(
        memory,
        gate=replace(memory.gate, contradiction=9),
        readout=replace(memory.readout, footprint=0.0),
        layout=replace(memory.layout, merge_tokens=7),
    )
    state = replace(start(model)[1], memory=memory)
    save_world(tmp_path / "world.zarr", state, model)
    assert_same_world(load_world(tmp_path / "world.zarr", model), state)


def test_which_views_a_camera_truly_saw_is_kept(tmp_path):
    model = open_minded_model()
    model = replace(model, config=replace(model.config, memory=replace(model.config.memory, shifts=2)))
    chunk, state = start(model)
    image, depth = np.zeros((32, 32, 3), np.uint8), np.full((32, 32), 3.0)
    with CacheWriter.create(tmp_path / "world.zarr", state, model) as writer:
        for true in ([0], [0, 5], [0, 5], [0, 5, 10]):
            if len(true) > len(true_rows(state.memory)):
                chunk, state = model.observe(state, [image], cameras_from(state.camera, model)[:1], [depth])
            else:
                chunk, state = model.step(state, cameras_from(state.camera, model))
            writer.append(state, chunk)
            writer.flush()
            found = true_rows(load_world(writer.path, model).memory)
            assert found == true_rows(state.memory) == true
    save_world(tmp_path / "saved.zarr", state, model)
    for path in (writer.path, tmp_path / "saved.zarr"):
        assert_same_world(load_world(path, model), state)


def test_blocks_that_are_gone_leave_the_disk(tmp_path):
    model = open_minded_model(max_bytes=3000, merge_tokens=60)
    walked = walk(model, 8)
    with CacheWriter.create(tmp_path / "world.zarr", walked[0][1], model) as writer:
        for chunk, state in walked[1:]:
            writer.append(state, chunk)
            writer.flush()
            for name in ("tokens/position", "evidence/base", "tiles/box", "frames/pose"):
                assert len(list((writer.path / name).glob("c.*"))) == len(state.memory.blocks)
        assert len(list((writer.path / "state/noise").glob("c.*"))) == 1


def test_compaction_changes_no_world_and_is_what_closing_does(tmp_path, model):
    walked = walk(model, 6)
    writer = CacheWriter.create(tmp_path / "world.zarr", walked[0][1], model)
    for chunk, state in walked[1:]:
        writer.append(state, chunk)
    writer.close(compact=False)
    assert list((writer.path / "evidence/log").glob("c.*"))
    shutil.copytree(writer.path, tmp_path / "again.zarr")
    CacheWriter.open(writer.path, model).close()
    compact(tmp_path / "again.zarr")
    for path in (writer.path, tmp_path / "again.zarr"):
        assert_same_world(load_world(path, model), walked[-1][1])
        assert not list((path / "evidence/log").glob("c.*"))
    with CacheWriter.open(writer.path, model) as writer:
        chunk, state = model.step(writer.state, cameras_from(writer.state.camera, model))
        writer.append(state, chunk)
    assert_same_world(load_world(writer.path, model), state)


def test_frames_and_cameras_are_those_of_the_walk(cache, walked):
    chunks = [chunk for chunk, _ in walked]
    assert np.array_equal(load_frames(cache), np.concatenate([frames_to_uint8(c.frames) for c in chunks]))
    assert_same_cameras(open_cache(cache).cameras, [camera for chunk in chunks for camera in chunk.cameras])


def test_info_tells_what_is_there_without_a_model(cache, model, walked):
    info, memory = open_cache(cache), walked[-1][1].memory
    assert (info.model, info.identity, info.version) == ("tiny", model.identity, 1)
    assert (info.chunks, info.blocks, info.points) == (STEPS, len(memory.blocks), memory.points)
    assert info.nbytes == memory.nbytes
    assert info.has_frames
    assert 0 < info.stored_bytes == sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    bounds = np.array([block.bounds for block in memory.blocks])
    assert np.array_equal(info.bounds, [bounds[:, 0].min(0), bounds[:, 1].max(0)])


def test_lazy_block_tells_what_it_is_before_it_is_read(cache, model, walked):
    lazy = load_world(cache, model, lazy=True).memory
    for block, whole in zip(lazy.blocks, walked[-1][1].memory.blocks, strict=True):
        assert (len(block), block.newest, block.pinned) == (len(whole), whole.newest, whole.pinned)
        assert block.nbytes == whole.nbytes
        assert np.array_equal(block.bounds, whole.bounds)
        assert block.unread is not None
        assert block.channels == whole.channels
        assert block.unread is None
        assert same_block(block, whole)
        assert same_block(block.with_confidence(block.confidence), whole)
        assert (len(block), block.newest, block.pinned) == (len(whole), whole.newest, whole.pinned)
    with pytest.raises(AttributeError):
        _ = block.colour


def test_readout_reads_only_what_is_in_view(tmp_path, model):
    from mirage_env.camera import Camera
    from mirage_env.poses import pose_from_rotation_vector

    start_state = start(model)[1]
    away = start_state.camera.moved(pose_from_rotation_vector([500.0, 0.0, 0.0], [0.0, 0.0, 0.0]))
    memory, view = start_state.memory, start_state.camera
    latents, depth = torch.ones(1, 8, 4, 4), torch.full((1, 32, 32), 2.0)
    memory = memory.write(latents, latents, depth, torch.ones(1, 4, 4, dtype=torch.bool), [away], 1)
    assert len(memory.blocks) == 2
    save_world(tmp_path / "world.zarr", replace(start_state, memory=memory), model)
    lazy = load_world(tmp_path / "world.zarr", model, lazy=True).memory
    assert isinstance(view, Camera)
    assert lazy.read([view], 1).observed.any()
    assert [block.unread is None for block in lazy.blocks] == [True, False]
    assert torch.equal(lazy.read([away], 1).latent, memory.read([away], 1).latent)


def test_world_without_points_is_stored(tmp_path):
    model = tiny_world_model()
    model = replace(model, config=replace(model.config, far=1.0))
    state = start(model)[1]
    assert state.memory.points == 0
    save_world(tmp_path / "empty.zarr", state, model)
    assert_same_world(load_world(tmp_path / "empty.zarr", model), state)
    assert open_cache(tmp_path / "empty.zarr").bounds is None


def test_zip_and_folder_become_each_other(tmp_path, cache, model, walked):
    copy_cache(cache, tmp_path / "packed.zip")
    copy_cache(tmp_path / "packed.zip", tmp_path / "again.zarr")
    for path in (tmp_path / "packed.zip", tmp_path / "again.zarr"):
        assert_same_world(load_world(path, model), walked[-1][1])
        assert np.array_equal(load_frames(path), load_frames(cache))
        assert open_cache(path).created == open_cache(cache).created
    with CacheWriter.open(tmp_path / "again.zarr", model) as writer:
        assert_same_world(writer.state, walked[-1][1])


def test_file_url_is_a_path(tmp_path, cache, model, walked):
    copy_cache(cache, f"file://{tmp_path}/new%20world.zarr")
    assert_same_world(load_world(tmp_path / "new world.zarr", model), walked[-1][1])
    assert_same_world(load_world(f"file://{tmp_path}/new%20world.zarr", model), walked[-1][1])
    with pytest.raises(InvalidOptionError, match="ftp://x is no place"):
        load_world("ftp://x", model)


def test_any_zarr_library_reads_it(cache, walked):
    root = zarr.open_group(cache, mode="r")
    marker, memory = root["commit"].attrs, walked[-1][1].memory
    table = np.concatenate([root["blocks"][a:b] for a, b in marker["blocks"]])
    for block, row in zip(memory.blocks, table, strict=True):
        start, count = int(row[0]), int(row[1])
        assert np.array_equal(root["tokens/position"][start : start + count].T, block.xyz)
        assert np.array_equal(root["tokens/feature"][start : start + count], block.feature)
        assert np.array_equal(root["tiles/box"][int(row[2]) : int(row[2] + row[3]), :3], block.low)
    assert np.array_equal(root["state/latents"][marker["state"]], walked[-1][1].latents)
    poses = np.concatenate([root["path/poses"][a:b] for a, b in marker["path"]])
    assert np.array_equal(poses[-1], walked[-1][1].camera.T_world_cam)


def test_file_times_mean_nothing(cache, model, walked):
    rng = np.random.default_rng(0)
    for file in cache.rglob("*"):
        moment = float(rng.uniform(0, 4e9))
        os.utime(file, (moment, moment))
    with CacheWriter.open(cache, model) as writer:
        chunk, state = model.step(writer.state, cameras_from(writer.state.camera, model))
        writer.append(state, chunk)
    assert_same_world(load_world(cache, model), state)


# A store of every released version stays readable.


@pytest.mark.parametrize("version", [1])
def test_sample_of_released_version_is_readable(version):
    expected = json.loads((DATA / f"cache_v{version}.json").read_text())
    path = DATA / f"cache_v{version}.zip"
    info = open_cache(path)
    found = (info.version, info.chunks, info.blocks, info.points, info.identity)
    assert found == (version, *(expected[k] for k in ("chunks", "blocks", "points", "identity")))
    state = load_world(path, tiny_world_model())
    xyz = np.concatenate([block.positions() for block in state.memory.blocks])
    assert xyz.mean(0).tolist() == pytest.approx(expected["mean_xyz"], abs=1e-4)
    assert state.latents.mean().item() == pytest.approx(expected["mean_latent"])
    assert state.camera.as_vector().tolist() == pytest.approx(expected["camera"])
    assert load_frames(path).mean() == pytest.approx(expected["mean_frame"])
    assert state.memory.frames == 1 + 4 * info.chunks


# Refusals


def test_existing_place_is_not_overwritten_unasked(cache, model, walked):
    with pytest.raises(CacheExistsError, match=r"world\.zarr already"):
        save_world(cache, walked[0][1], model)
    save_world(cache, walked[0][1], model, overwrite=True)
    assert load_world(cache, model).chunk == 0
    assert [p.name for p in cache.parent.iterdir()] == [cache.name]


def test_what_is_no_cache_is_never_overwritten(tmp_path, model, walked):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    (tmp_path / "photo.zip").write_text("no zip at all")
    for name in ("home", "photo.zip", "home/thesis.txt"):
        with pytest.raises(CacheExistsError, match="it is no cache"):
            save_world(tmp_path / name, walked[0][1], model, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_cache_that_is_being_written_is_not_overwritten(cache, model, walked):
    with CacheWriter.open(cache, model), pytest.raises(CacheBusyError, match="close that one first"):
        save_world(cache, walked[0][1], model, overwrite=True)
    assert_same_world(load_world(cache, model), walked[-1][1])


def test_another_model_is_refused_by_name(cache, model):
    other = replace(model, identity="tiny-9", config=replace(model.config, name="other"))
    with pytest.raises(CacheModelError, match=r"'tiny' \(tiny-0\).*'other' \(tiny-9\).*load the model"):
        load_world(cache, other)
    with pytest.raises(CacheModelError):
        CacheWriter.open(cache, other)
    CacheWriter.open(cache, model).close()


def test_other_memories_are_refused(tmp_path, model, walked):
    memory = walked[0][1].memory
    coloured = PointMemory(memory.grid, 3, memory.near, memory.readout, memory.gate, memory.layout)
    state = replace(walked[0][1], memory=coloured)
    with pytest.raises(InvalidOptionError, match="PointMemory cannot be stored"):
        save_world(tmp_path / "world.zarr", state, model)
    assert not list(tmp_path.iterdir())


def test_half_made_cache_is_never_seen(tmp_path, model, walked, monkeypatch):
    monkeypatch.setattr("mirage_env.store.format.commits._Draft.add_state", lambda *_: 1 / 0)
    for name in ("world.zarr", "world.zip", "memory://half/world"):
        place = name if "://" in name else tmp_path / name
        with pytest.raises(ZeroDivisionError):
            save_world(place, walked[0][1], model)
        with pytest.raises(CacheNotFoundError):
            open_cache(place)
    assert not list(tmp_path.iterdir())


def test_reader_starts_over_when_a_writer_commits_meanwhile(cache, model, walked, monkeypatch):
    from mirage_env.store import reader

    state = walked[-1][1]
    chunk, after = model.step(state, cameras_from(state.camera, model))
    read, reads = reader.Opened.resumable, []
    with CacheWriter.open(cache, model) as writer:

        def read_while_writing(opened):
            result = read(opened)
            if not reads:
                writer.append(after, chunk)
                writer.flush()
            reads.append(result)
            return result

        monkeypatch.setattr(reader.Opened, "resumable", read_while_writing)
        assert_same_world(load_world(cache, model), after)
    assert len(reads) == 2


def test_lazy_world_says_that_a_writer_has_gone_on(cache, model):
    lazy = load_world(cache, model, lazy=True).memory.blocks[-1]
    with CacheWriter.open(cache, model) as writer:
        while lazy.unread.row in {entry.row for _, entry in writer._writing.known}:
            chunk, state = model.step(writer.state, cameras_from(writer.state.camera, model))
            writer.append(state, chunk)
            writer.flush()
        with pytest.raises(StoreError, match=r"written to since this world was loaded.*lazy=False"):
            _ = lazy.xyz


def test_forks_of_the_writers_world_keep_their_blocks_when_those_leave_the_disk(cache, model, walked):
    with CacheWriter.open(cache, model) as writer:
        fork = writer.state
        for _ in range(6):
            chunk, state = model.step(writer.state, cameras_from(writer.state.camera, model))
            writer.append(state, chunk)
    assert_same_world(fork, walked[-1][1])


def test_missing_caches_are_told_apart_from_damaged_ones(tmp_path, model):
    with pytest.raises(CacheNotFoundError, match="no cache at"):
        load_world(tmp_path / "nowhere.zarr", model)
    with pytest.raises(CacheNotFoundError, match="without a cache"):
        open_cache(tmp_path)
    with pytest.raises(CacheNotFoundError, match="no cache at memory://"):
        open_cache("memory://nowhere")
    (tmp_path / "file.zarr").write_bytes(b"")
    with pytest.raises(CacheCorruptError, match="no whole zip"):
        open_cache(tmp_path / "file.zarr")
