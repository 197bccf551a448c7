"""Damage is found wherever it is, and named."""

import json
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
import zarr
from flips import flip_bytes
from worlds import open_minded_model, walk

from mirage_env.errors import CacheCorruptError, CacheVersionError
from mirage_env.store import CacheWriter, copy_cache, load_frames, load_world, open_cache
from mirage_env.store.format.commit_marker import KEY, Marker


@pytest.fixture(scope="module")
def model():
    return open_minded_model(merge_tokens=60)


@pytest.fixture(scope="module")
def original(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("original") / "world.zarr"
    walked = walk(model, 4)
    writer = CacheWriter.create(path, walked[0][1], model, [walked[0][0]], frames=True)
    for chunk, state in walked[1:]:
        writer.append(state, chunk)
    writer.close(compact=False)  # so that there is a log
    return path


@pytest.fixture
def cache(tmp_path, original):
    return shutil.copytree(original, tmp_path / "world.zarr")


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content["attributes"])
    path.write_text(json.dumps(content))


def marker_of(path):
    return json.loads((path / "commit" / "zarr.json").read_text())["attributes"]


def set_attribute(where, name, value):
    return lambda path: edit_json(path / where / "zarr.json", lambda d: d.__setitem__(name, value))


def grown(path):
    """An array as long as it is allowed to be: a cache that was not compacted declares what it held when it began."""
    array = zarr.open_array(path, mode="r+")
    array.resize((2**40, *array.shape[1:]))
    return array


def set_value(where, pick, value):
    """Write a value as any Zarr library would, with right checksums of its file."""

    def change(path):
        array = grown(path / where)
        array[pick(marker_of(path), path)] = value

    return change


def row_of_last_block(marker, _):
    return marker["blocks"][-1][1] - 1


def token_of_last_block(marker, path):
    return int(grown(path / "blocks")[row_of_last_block(marker, path)][0])


def tile_of_last_block(marker, path):
    return int(grown(path / "blocks")[row_of_last_block(marker, path)][2])


def state_row(marker, _):
    return marker["state"]


def last_camera(marker, _):
    return marker["path"][-1][1] - 1


def first_log_row(marker, _):
    return marker["log"][0][0]


def cut_short(name):
    def change(path):
        for file in (path / name).glob("c.*"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return change


def remove_rows(name):
    def change(path):
        for file in (path / name).glob("c.*"):
            file.unlink()

    return change


DAMAGES = {
    "tokens cut short": (cut_short("tokens/position"), "tokens/position/c"),
    "tokens gone": (remove_rows("tokens/position"), "tokens/position/c"),
    "features gone": (remove_rows("tokens/feature"), "tokens/feature/c"),
    "tiles gone": (remove_rows("tiles/box"), "tiles/box/c"),
    "evidence gone": (remove_rows("evidence/base"), "evidence/base/c"),
    "log gone": (remove_rows("evidence/log"), "evidence/log/c"),
    "table gone": (remove_rows("blocks"), "blocks/c"),
    "latents gone": (remove_rows("state/latents"), "state/latents/c"),
    "path gone": (remove_rows("path/poses"), "path/poses/c"),
    "token moved": (set_value("tokens/position", token_of_last_block, 7), "its tokens do not have"),
    "feature changed": (set_value("tokens/feature", token_of_last_block, 7), "its tokens do not have"),
    "evidence changed": (set_value("evidence/base", token_of_last_block, 77), "its evidence do not have|log of"),
    "box not finite": (set_value("tiles/box", tile_of_last_block, np.nan), "its tiles do not have"),
    "tile of another chunk": (set_value("tiles/index", tile_of_last_block, 99), "its tiles do not have"),
    "log changed": (set_value("evidence/log", first_log_row, 3), "log of evidence"),
    "entry changed": (set_value("blocks", row_of_last_block, 1.0), "row .* of the table"),
    "noise changed": (set_value("state/noise", state_row, 255), "latents and the noise"),
    "latents not finite": (set_value("state/latents", state_row, np.nan), "latents and the noise"),
    "no rigid pose": (set_value("path/poses", last_camera, 7.0), "path does not have"),
    "no focal length": (set_value("path/intrinsics", last_camera, 0.0), "path does not have"),
    "no marker": (lambda path: shutil.rmtree(path / "commit"), "marker commit/zarr.json is missing"),
    "marker without blocks": (
        lambda path: edit_json(path / "commit/zarr.json", lambda d: d.pop("blocks")),
        "marker commit/zarr.json is damaged",
    ),
    "marker with other blocks": (set_attribute("commit", "blocks", [[70, 77]]), "marker .* checksum"),
    "marker with more cameras": (set_attribute("commit", "path", [[0, 1000]]), "marker .* checksum"),
    "root no JSON": (lambda path: (path / "zarr.json").write_text('{"attrib'), "zarr.json is no JSON"),
    "another format": (set_attribute(".", "format", "zarr.json does not have"), "zarr.json does not have"),
    "no version": (set_attribute(".", "version", None), "zarr.json does not have"),
    "other settings": (set_attribute(".", "memory", {"kind": "mesh", "channels": 8}), "zarr.json does not have"),
    "other image size": (set_attribute(".", "image_size", [64, 64]), "zarr.json does not have"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_the_reason(cache, model, damage):
    do, says = DAMAGES[damage]
    do(cache)
    with pytest.raises(CacheCorruptError, match=rf"(?s)world\.zarr is damaged: .*({says})"):
        load_world(cache, model)


def test_damaged_block_of_a_lazy_world_is_named_when_it_is_touched(cache, model):
    set_value("tokens/feature", token_of_last_block, 7)(cache)
    memory = load_world(cache, model, lazy=True).memory
    assert memory.blocks[0].feature.dtype == np.int8
    row = marker_of(cache)["blocks"][-1][1] - 1
    for _ in range(2):
        with pytest.raises(CacheCorruptError, match=rf"world\.zarr is damaged: block at row {row}, tokens \d+ to \d+"):
            _ = memory.blocks[-1].feature


def test_damaged_image_is_found_by_those_who_look(cache, model):
    file = sorted((cache / "path/images").glob("c.*"))[3]
    file.write_bytes(file.read_bytes()[:-1])
    load_world(cache, model)
    with pytest.raises(CacheCorruptError, match=f"path/images/{file.name}"):
        load_frames(cache)


def test_flipped_byte_is_found_and_named(cache, model):
    assert flip_bytes(cache, model, times=60) == 60


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
    root = zlib.crc32((cache / "zarr.json").read_bytes())
    marker = Marker.decode((cache / KEY).read_bytes())
    (cache / KEY).write_bytes(replace(marker, crc32={**marker.crc32, "root": root}).encode())
    reads = (open_cache, load_frames, lambda path: load_world(path, model), lambda path: CacheWriter.open(path, model))
    for read in reads:
        with pytest.raises(CacheVersionError, match=r"version 2.*reads up to 1.*update"):
            read(cache)
