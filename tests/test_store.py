"""The store gives back what it was given, at any moment of its life, or says why not."""

import json
import multiprocessing
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path

import endless_writer
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_world_model
from worlds import cameras_from, open_minded_model, start, walk

from mirage_env.errors import (
    CacheCorruptError,
    CacheExistsError,
    CacheModelError,
    CacheNotFoundError,
    CacheVersionError,
    InvalidOptionError,
    StoreError,
)
from mirage_env.memory import LatentMemory, PointMemory
from mirage_env.store import CacheWriter, copy_cache, load_frames, load_world, open_cache, save_world
from mirage_env.world_model import frames_to_uint8

DATA = Path(__file__).parent / "data"
STEPS = 3


@pytest.fixture(scope="module")
def model():
    return open_minded_model()


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
    assert {f.name for f in fields(a)} == {"memory", "camera", "latents", "chunk", "noise"}
    for field in fields(LatentMemory):
        if field.name != "blocks":
            assert getattr(a.memory, field.name) == getattr(b.memory, field.name)
    assert [block.born for block in a.memory.blocks] == [block.born for block in b.memory.blocks]
    for first, second in zip(a.memory.blocks, b.memory.blocks, strict=True):
        for name in ("xyz", "feature", "footprint"):
            assert getattr(first, name).dtype == getattr(second, name).dtype
            assert np.array_equal(getattr(first, name), getattr(second, name)), name


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
    max_points=st.sampled_from([0, 60]),
    frames=st.booleans(),
    suffix=st.sampled_from(["zarr", "zip"]),
)
def test_loaded_world_goes_on_as_the_saved_one(tmp_path_factory, steps, seed, max_points, frames, suffix):
    model = open_minded_model(max_points=max_points)
    walked = walk(model, steps, seed)
    state, path = walked[-1][1], tmp_path_factory.mktemp("cache") / f"world.{suffix}"
    save_world(path, state, model, [chunk for chunk, _ in walked], frames)
    loaded = load_world(path, model)
    assert_same_world(loaded, state)
    cameras = cameras_from(state.camera, model)
    (expected, after), (chunk, after_loaded) = model.step(state, cameras), model.step(loaded, cameras)
    assert torch.equal(chunk.frames, expected.frames)
    assert_same_world(after_loaded, after)


@pytest.mark.parametrize("max_points", [0, 60])
def test_appended_cache_holds_what_a_saved_one_holds(tmp_path, max_points):
    model = open_minded_model(max_points=max_points)
    walked = walk(model, 6)
    writer = CacheWriter.create(tmp_path / "appended.zarr", walked[0][1], model, [walked[0][0]], frames=True)
    for chunk, state in walked[1:]:
        writer.append(state, chunk)
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
    CacheWriter.create(path, walked[0][1], model, [walked[0][0]])
    for chunk, state in walked[1:]:
        writer = CacheWriter.open(path, model)
        writer.append(state, chunk)
    assert_same_world(load_world(path, model), walked[-1][1])
    names = sorted(p.name for p in (path / "blocks").iterdir() if p.is_dir())
    assert names == [f"{i:08d}" for i in range(len(walked))], "a block was written twice"


def test_settings_of_a_memory_that_are_not_its_models_are_kept(tmp_path, model):
    memory = start(model)[1].memory
    memory = replace(memory, gate=replace(memory.gate, max_points=9), readout=replace(memory.readout, footprint=0.0))
    state = replace(start(model)[1], memory=memory)
    save_world(tmp_path / "world.zarr", state, model)
    assert_same_world(load_world(tmp_path / "world.zarr", model), state)


def test_evicted_blocks_leave_the_disk(tmp_path):
    model = open_minded_model(max_points=60)
    walked = walk(model, 6)
    writer = CacheWriter.create(tmp_path / "world.zarr", walked[0][1], model)
    for chunk, state in walked[1:]:
        writer.append(state, chunk)
        stored = [p for p in (writer.path / "blocks").iterdir() if p.is_dir()]
        assert len(stored) == len(state.memory.blocks)


def test_frames_and_cameras_are_those_of_the_walk(cache, walked):
    chunks = [chunk for chunk, _ in walked]
    assert np.array_equal(load_frames(cache), np.concatenate([frames_to_uint8(c.frames) for c in chunks]))
    assert_same_cameras(open_cache(cache).cameras, [camera for chunk in chunks for camera in chunk.cameras])


def test_info_tells_what_is_there_without_a_model(cache, model, walked):
    info, memory = open_cache(cache), walked[-1][1].memory
    assert (info.model, info.identity) == ("tiny", model.identity)
    assert (info.chunks, info.blocks, info.points) == (STEPS, len(memory.blocks), memory.points)
    assert info.nbytes == memory.nbytes
    assert info.has_frames
    assert 0 < info.stored_bytes == sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    xyz = np.concatenate([block.xyz for block in memory.blocks])
    assert np.allclose(info.bounds, [xyz.min(0), xyz.max(0)])


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
    assert len(CacheWriter.open(tmp_path / "again.zarr", model).state.memory.blocks) == len(walked)


# A store of every released version stays readable.


@pytest.mark.parametrize("version", [1])
def test_sample_of_released_version_is_readable(tmp_path, version):
    expected = json.loads((DATA / f"cache_v{version}.json").read_text())
    path = DATA / f"cache_v{version}.zip"
    info = open_cache(path)
    assert (info.chunks, info.blocks, info.points, info.identity) == tuple(
        expected[k] for k in ("chunks", "blocks", "points", "identity")
    )
    state = load_world(path, tiny_world_model())
    xyz = np.concatenate([block.xyz for block in state.memory.blocks])
    assert xyz.mean(0).tolist() == pytest.approx(expected["mean_xyz"])
    assert state.latents.mean().item() == pytest.approx(expected["mean_latent"])
    assert state.camera.as_vector().tolist() == pytest.approx(expected["camera"])
    assert load_frames(path).mean() == pytest.approx(expected["mean_frame"])


# What a kill leaves


def test_killed_writer_leaves_a_whole_step(tmp_path):
    path = tmp_path / "world.zarr"
    chunk, state = endless_writer.made_up(0, LatentMemory.empty(endless_writer.CONFIG))
    save_world(path, state, endless_writer.MODEL, [chunk], frames=True)
    context = multiprocessing.get_context("forkserver")  # a clean process that has imported torch once for all
    context.set_forkserver_preload(["pytest", "mirage_env.store"])
    rng = np.random.default_rng(0)
    last = 0
    for _ in range(10):
        ours, theirs = context.Pipe(duplex=False)
        with ours, theirs:
            writer = context.Process(target=endless_writer.write_for_ever, args=(path, theirs))
            writer.start()
            assert ours.poll(120), "the writer did not start"
            time.sleep(rng.uniform(0.0, 0.1))
            writer.kill()
            writer.join()
            while ours.poll():
                written = ours.recv()
        state = load_world(path, endless_writer.MODEL)
        assert last < written <= state.chunk <= written + 1
        last = state.chunk
        assert endless_writer.is_step(state, last)
        assert len(load_frames(path)) == len(open_cache(path).cameras) == 4 * (last + 1)
    CacheWriter.open(path, endless_writer.MODEL)
    assert not list(path.rglob("*.partial"))
    assert {p.name for p in (path / "blocks").iterdir() if p.is_dir()} == set(commit_of(path)["blocks"])


def test_failed_append_changes_nothing(cache, model, walked, monkeypatch):
    state = walked[-1][1]
    chunk, after = model.step(state, cameras_from(state.camera, model))
    writer = CacheWriter.open(cache, model)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mirage_env.store.write_state", full)
        with pytest.raises(OSError, match="No space"):
            writer.append(after, chunk)
    assert_same_world(load_world(cache, model), state)
    writer.append(after, chunk)
    assert_same_world(load_world(cache, model), after)


def test_half_made_cache_is_never_seen(tmp_path, model, walked, monkeypatch):
    monkeypatch.setattr("mirage_env.cache_format.write_state", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_world(tmp_path / "world.zarr", walked[0][1], model)
    assert not list(tmp_path.iterdir())


def test_reader_starts_over_when_a_writer_commits_meanwhile(cache, model, walked, monkeypatch):
    state = walked[-1][1]
    chunk, after = model.step(state, cameras_from(state.camera, model))
    writer = CacheWriter.open(cache, model)
    from mirage_env import store

    read, reads = store.read_state, []

    def read_while_writing(*arguments):
        result = read(*arguments)
        if not reads:
            writer.append(after, chunk)
        reads.append(result)
        return result

    monkeypatch.setattr(store, "read_state", read_while_writing)
    assert_same_world(load_world(cache, model), after)
    assert len(reads) == 2


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
        with pytest.raises(CacheExistsError, match="is no cache"):
            save_world(tmp_path / name, walked[0][1], model, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_another_model_is_refused_by_name(cache, model):
    other = replace(model, identity="tiny-9", config=replace(model.config, name="other"))
    with pytest.raises(CacheModelError, match=r"'tiny' \(tiny-0\).*'other' \(tiny-9\).*load the model"):
        load_world(cache, other)
    with pytest.raises(CacheModelError):
        CacheWriter.open(cache, other)


def test_other_memories_are_refused(tmp_path, model, walked):
    memory = walked[0][1].memory
    coloured = PointMemory(memory.grid, 3, memory.near, memory.readout, memory.gate)
    state = replace(walked[0][1], memory=coloured)
    with pytest.raises(InvalidOptionError, match="PointMemory cannot be stored"):
        save_world(tmp_path / "world.zarr", state, model)
    assert not list(tmp_path.iterdir())


def test_steps_are_appended_in_order_by_one_writer(cache, model, walked, tmp_path):
    writer = CacheWriter.open(cache, model)
    with pytest.raises(InvalidOptionError, match="after 3 chunks, the state given is after 1"):
        writer.append(walked[1][1], walked[1][0])
    state = walked[-1][1]
    chunk, after = model.step(state, cameras_from(state.camera, model))
    with pytest.raises(InvalidOptionError, match="do not end at the state's camera"):
        writer.append(after, walked[1][0])
    CacheWriter.open(cache, model).append(after, chunk)
    with pytest.raises(StoreError, match="another writer"):
        writer.append(after, chunk)
    with pytest.raises(InvalidOptionError, match="zip"):
        CacheWriter.create(tmp_path / "world.zip", state, model)


def test_missing_caches_are_told_apart_from_damaged_ones(tmp_path, model):
    with pytest.raises(CacheNotFoundError, match="no cache at"):
        load_world(tmp_path / "nowhere.zarr", model)
    with pytest.raises(CacheNotFoundError, match="without a cache"):
        open_cache(tmp_path)


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def commit_of(path):
    return json.loads((path / "commit" / "zarr.json").read_text())["attributes"]


def set_attribute(where, name, value):
    return lambda path: edit_json(path / where / "zarr.json", lambda d: d["attributes"].__setitem__(name, value))


def set_value(where, index, value):
    def change(path):
        zarr.open_array(path / where, mode="r+")[index] = value

    return change


def truncate(pattern):
    def change(path):
        file = next(f for f in sorted((path).glob(pattern)) if f.is_file())
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return change


def remove(name):
    def change(path):
        target = path / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def replace_array(where, **kwargs):
    def change(path):
        old = zarr.open_array(path / where, mode="r")
        values = old[:]
        dtype = kwargs.get("dtype", old.dtype)
        zarr.create_array(path / where, data=values.astype(dtype)[kwargs.get("rows", slice(None))], overwrite=True)

    return change


BLOCK = "blocks/00000001"
DAMAGES = {
    "points cut short": truncate(f"{BLOCK}/xyz/c/**/*"),
    "points gone": remove(f"{BLOCK}/xyz/c"),
    "feature array gone": remove(f"{BLOCK}/feature"),
    "feature description gone": remove(f"{BLOCK}/feature/zarr.json"),
    "block gone": remove(BLOCK),
    "NaN in a point": set_value(f"{BLOCK}/xyz", (0, 0), np.nan),
    "infinite feature": set_value(f"{BLOCK}/feature", (0, 0), np.inf),
    "point moved": set_value(f"{BLOCK}/xyz", (0, 0), 1e6),
    "negative footprint": set_value(f"{BLOCK}/footprint", 0, -1.0),
    "features of another type": replace_array(f"{BLOCK}/feature", dtype="float32"),
    "fewer features than points": replace_array(f"{BLOCK}/feature", rows=slice(1, None)),
    "block from the future": set_attribute(BLOCK, "born", 99),
    "latents gone": remove("state/latents/c"),
    "noise changed": set_value("state/noise", (slice(None), 0), 255),
    "no rigid pose": set_value("path/poses", (-1, 0, 0), 7.0),
    "path cut short": replace_array("path/poses", rows=slice(0, 4)),
    "no focal length": set_value("path/intrinsics", (-1, 0, 0), 0.0),
    "other image size": set_attribute("path", "image_size", [64, 64]),
    "no commit": remove("commit"),
    "commit without blocks": lambda path: edit_json(path / "commit/zarr.json", lambda d: d["attributes"].pop("blocks")),
    "commit with an unknown block": set_attribute("commit", "blocks", ["00000077"]),
    "commit that names a path": set_attribute("commit", "blocks", ["../state"]),
    "commit with more cameras": set_attribute("commit", "cameras", 1000),
    "commit of another slot": set_attribute("commit", "slot", 1),
    "commit of no slot": set_attribute("commit", "slot", 2),
    "root no JSON": truncate("zarr.json"),
    "another format": set_attribute(".", "format", "mirage_photos"),
    "no version": set_attribute(".", "version", None),
    "memory of another kind": lambda path: edit_json(
        path / "zarr.json", lambda d: d["attributes"]["memory"].__setitem__("kind", "mesh")
    ),
    "memory with unknown settings": lambda path: edit_json(
        path / "zarr.json", lambda d: d["attributes"]["memory"].__setitem__("gate", {"colour": 1})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_the_reason(cache, model, damage):
    DAMAGES[damage](cache)
    with pytest.raises(CacheCorruptError, match=r"world\.zarr"):
        load_world(cache, model)


def test_damaged_zip_is_refused(tmp_path, cache, model):
    path = tmp_path / "world.zip"
    copy_cache(cache, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no zip"):
        path.write_bytes(content)
        with pytest.raises(CacheCorruptError, match=r"world\.zip"):
            load_world(path, model)


def test_newer_version_is_refused_as_such(cache, model):
    set_attribute(".", "version", 2)(cache)
    for read in (open_cache, load_frames, lambda path: load_world(path, model)):
        with pytest.raises(CacheVersionError, match=r"version 2.*reads up to 1.*update"):
            read(cache)


def test_every_flipped_byte_of_the_points_is_seen(cache, model):
    for file in sorted((cache / BLOCK).rglob("c/**/*")):
        if file.is_file():
            whole = file.read_bytes()
            for at in np.linspace(0, len(whole) - 1, 12).astype(int):
                file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
                with pytest.raises(CacheCorruptError):
                    load_world(cache, model)
            file.write_bytes(whole)
