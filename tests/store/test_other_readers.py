"""Other libraries open a world with the names, units and lengths that its format says."""

import json

import numpy as np
import pytest
import zarr
from endless_writer import CONFIG, MODEL, made_up

from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheWriter, load_frames

CHUNKS = 3
GROUPS = ("tokens", "evidence", "tiles", "frames", "path", "state", None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cache and its last state."""
    path = tmp_path_factory.mktemp("world") / "world.zarr"
    chunk, state = made_up(0, LatentMemory.empty(CONFIG))
    with CacheWriter.create(path, state, MODEL, [chunk], frames=True) as writer:
        for _ in range(CHUNKS):
            chunk, state = made_up(state.chunk + 1, state.memory)
            writer.append(state, chunk)
    return path, state


def test_arrays_are_as_long_as_what_was_written(world):
    path, state = world
    root = zarr.open_group(path, mode="r")
    frames = CONFIG.frames_per_chunk * (CHUNKS + 1)
    assert root["path/poses"].shape == (frames, 4, 4)
    assert root["path/images"].shape == (frames, *CONFIG.image_size, 3)
    assert sum(array[:].nbytes for _, array in root["tokens"].arrays()) < 2**24
    assert np.array_equal(root["path/poses"][:][-1], state.camera.T_world_cam)


def test_every_array_names_its_axes_and_says_what_it_is(world):
    root = zarr.open_group(world[0], mode="r")
    arrays = [array for _, array in root.members(max_depth=None) if isinstance(array, zarr.Array)]
    assert len(arrays) >= 18
    for array in arrays:
        assert len(array.metadata.dimension_names) == array.ndim
        assert array.attrs["description"]
    assert root["path/poses"].attrs["units"] == "m"


@pytest.mark.parametrize("group", GROUPS)
def test_xarray_opens_every_group(world, group):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed; pip install 'mirage-env[test]'")
    with xarray.open_zarr(world[0], group=group, consolidated=False) as found:
        assert len(found) > 0
        if group == "path":
            assert found.poses.dims == ("path", "row", "column")
            assert found.poses.attrs["units"] == "m"
            assert np.array_equal(found.poses.values[-1], world[1].camera.T_world_cam)


def test_byte_order_is_said_of_single_bytes_too(world):
    """Zarr's library leaves it out there; zarrita opens no array without it."""
    described = [json.loads(file.read_bytes()) for file in world[0].rglob("zarr.json")]
    arrays = [node for node in described if node["node_type"] == "array"]
    assert {node["data_type"] for node in arrays} > {"uint8", "int8", "float64"}
    assert all(node["codecs"][0] == {"name": "bytes", "configuration": {"endian": "little"}} for node in arrays)


def test_tensorstore_reads_an_array_by_its_names(world):
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    place = {"driver": "file", "path": str(world[0] / "path/images")}
    images = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()
    assert images.domain.labels == ("path", "y", "x", "rgb")
    assert np.array_equal(images.read().result(), load_frames(world[0]))
    place = {"driver": "file", "path": str(world[0] / "path/poses")}
    poses = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()
    assert poses.domain.labels == ("path", "row", "column")
    assert np.array_equal(poses.read().result()[-1], world[1].camera.T_world_cam)
