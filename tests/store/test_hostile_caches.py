"""A cache made to do harm is refused with one class of error, quickly, and nothing outside it is touched."""

import contextlib
import errno
import io
import json
import os
import shutil
import socket
import time
import zipfile
import zlib
from dataclasses import replace

import endless_writer
import numpy as np
import pytest
from endless_writer import MODEL, is_step, made_up
from lying_caches import Forger, signed
from PIL import Image

from mirage_env.errors import (
    CacheBusyError,
    CacheCorruptError,
    CacheExistsError,
    CacheNotFoundError,
    MirageError,
    StoreError,
)
from mirage_env.files import atomic
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheWriter, compact, copy_cache, load_frames, load_world, open_cache, save_world
from mirage_env.store.format.arrays import encode
from mirage_env.store.format.commit_marker import KEY, MOST_RUNS


def first():
    chunk, state = made_up(0, LatentMemory.empty(endless_writer.CONFIG))
    return state, MODEL, [chunk]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "world.zarr"
    state, model, chunks = first()
    with CacheWriter.create(path, state, model, chunks, frames=True) as writer:
        for _ in range(2):
            chunk, state = made_up(state.chunk + 1, state.memory)
            writer.append(state, chunk)
    return path


@pytest.fixture
def cache(tmp_path, original):
    return shutil.copytree(original, tmp_path / "home/world.zarr")


@pytest.fixture
def thesis(tmp_path):
    """A file outside the cache."""
    file = tmp_path / "thesis.txt"
    file.write_text("years of work")
    return file


def listing(folder):
    """Everything below a folder, with its content."""
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


READS = (
    open_cache,
    load_frames,
    lambda path: load_world(path, MODEL),
    lambda path: CacheWriter.open(path, MODEL).close(),
)
OPERATIONS = (
    *READS,
    compact,
    lambda path: copy_cache(path, path.with_name("copy.zarr")),
    lambda path: save_world(path, *first(), overwrite=True),
)


def refusal(do, *arguments):
    """The error, which must be one of ours and come within 20 seconds of work; None where it worked."""
    began = time.process_time()
    try:
        do(*arguments)
    except StoreError as error:
        return error
    finally:
        assert time.process_time() - began < 20.0
    return None


# Links, pipes, devices, sockets


def unix_socket(place):
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(place.parent)  # the name of a socket may have 107 bytes
        made.bind(place.name)
        os.chdir(here)


SPECIAL = {
    "link": lambda place, thesis: place.symlink_to(thesis),
    "dangling link": lambda place, thesis: place.symlink_to(thesis.with_name("made.txt")),
    "link to a device": lambda place, _: place.symlink_to("/dev/zero"),
    "pipe": lambda place, _: os.mkfifo(place),
    "socket": lambda place, _: unix_socket(place),
}


@pytest.mark.parametrize(
    "where", ["zarr.json", KEY, f"{KEY}.partial", ".lock", "blocks/c.0.0", "tokens/position/c.0.0"]
)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_and_leads_nowhere(cache, thesis, tmp_path, kind, where):
    (cache / where).unlink(missing_ok=True)
    SPECIAL[kind](cache / where, thesis)
    before = listing(tmp_path)
    for do in (compact, lambda path: CacheWriter.open(path, MODEL), lambda p: save_world(p, *first(), overwrite=True)):
        assert refusal(do, cache) is not None
        assert listing(tmp_path) == before
    for do in READS[:3]:
        error = refusal(do, cache)
        assert error is None or isinstance(error, CacheCorruptError | CacheNotFoundError)


@pytest.mark.parametrize("where", ["blocks", "tokens", "tokens/position", "commit"])
def test_folders_that_are_links_are_not_entered(cache, tmp_path, where):
    other = shutil.copytree(cache, tmp_path / "other.zarr")
    shutil.rmtree(cache / where)
    (cache / where).symlink_to(other / where)
    before = listing(other)
    for do in OPERATIONS:
        error = refusal(do, cache)
        assert "link" in str(error) or isinstance(error, CacheExistsError) or (do, error) == (load_frames, None)
    assert listing(other) == before


def test_link_that_appears_while_a_writer_is_at_work_leads_nowhere(cache, thesis, tmp_path):
    """Nobody looks between two steps; each open says that it follows none."""
    writer = CacheWriter.open(cache, MODEL)
    writer.flush()
    other = shutil.copytree(cache, tmp_path / "other.zarr")
    before = listing(other)
    (cache / f"{KEY}.partial").symlink_to(thesis)
    chunk, state = made_up(writer.state.chunk + 1, writer.state.memory)
    writer.append(state, chunk)
    writer.flush()
    assert thesis.read_text() == "years of work"
    assert is_step(load_world(cache, MODEL), state.chunk)
    shutil.rmtree(cache / "tokens")
    (cache / "tokens").symlink_to(other / "tokens")
    chunk, state = made_up(state.chunk + 1, state.memory)
    writer.append(state, chunk)
    with pytest.raises(StoreError, match="link"):
        writer.close()
    assert listing(other) == before


# Overwriting


def episode_like(place):
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("zarr.json", json.dumps({"attributes": {"format": "mirage_episode"}}))


def other_format(place):
    place.mkdir()
    (place / "zarr.json").write_text(json.dumps({"attributes": {"format": "mirage_clips"}}))


def my_notes_inside(place):
    save_world(place, *first())
    (place / "notes.txt").write_text("years of work")


def my_folder_inside(place):
    save_world(place, *first())
    (place / "tokens/mine").mkdir()
    (place / "tokens/mine/c.0.0").write_text("years of work")


def notes_in_the_zip(place):
    save_world(place, *first())
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("notes.txt", "years of work")


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("e.zip", episode_like, "no cache"),
        ("set.zarr", other_format, "no cache"),
        ("w.zarr", my_notes_inside, "belongs to no cache: notes.txt"),
        ("w.zarr", my_folder_inside, "belongs to no cache: tokens/mine/c.0.0"),
        ("w.zip", notes_in_the_zip, "belongs to no cache: notes.txt"),
    ],
)
def test_only_a_cache_that_holds_nothing_else_is_overwritten(tmp_path, name, make, says):
    make(tmp_path / name)
    before = listing(tmp_path)
    with pytest.raises(CacheExistsError, match=says):
        save_world(tmp_path / name, *first(), overwrite=True)
    with pytest.raises(CacheExistsError, match=says):
        CacheWriter.create(tmp_path / name, *first(), overwrite=True)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["w.zarr", "w.zip"])
def test_link_to_a_cache_stays_and_its_target_is_overwritten(tmp_path, name):
    (tmp_path / "disk").mkdir()
    save_world(tmp_path / "disk" / name, *first())
    (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    chunk, state = made_up(1, first()[0].memory)
    save_world(tmp_path / name, state, MODEL, [chunk], overwrite=True)
    assert (tmp_path / name).is_symlink()
    assert is_step(load_world(tmp_path / "disk" / name, MODEL), 1)
    with CacheWriter.open(tmp_path / name, MODEL) as writer:
        chunk, state = made_up(2, state.memory)
        writer.append(state, chunk)
    assert (tmp_path / name).is_symlink()
    assert is_step(load_world(tmp_path / name, MODEL), 2)
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == [name]


def test_damaged_cache_can_be_overwritten(cache):
    (cache / KEY).write_bytes(b"half")
    save_world(cache, *first(), overwrite=True)
    assert is_step(load_world(cache, MODEL), 0)


# Kills around a rename


class Killed(BaseException):
    """A kill that leaves everything as it is."""


def die(*_, **__):
    raise Killed


@pytest.mark.parametrize("exchanging", [True, False])
@pytest.mark.parametrize("at", range(6))
def test_kill_at_any_moment_of_overwriting_leaves_a_cache_at_its_name_and_no_litter(
    tmp_path, monkeypatch, at, exchanging
):
    path = tmp_path / "w.zarr"
    save_world(path, *first())
    chunk, state = made_up(1, first()[0].memory)
    calls = []

    def counted(do):
        def call(*arguments, **options):
            if len(calls) == at:
                raise Killed
            calls.append(do)
            return do(*arguments, **options)

        return call

    if not exchanging:
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", counted(os.rename))
        patched.setattr(shutil, "rmtree", die if at < 5 else counted(shutil.rmtree))
        patched.setattr(atomic, "exchange", counted(atomic.exchange))
        patched.setattr(os, "getpid", lambda: 2**22 + 1)  # beyond the largest process number: it has ended
        with contextlib.suppress(Killed):
            save_world(path, state, MODEL, [chunk], overwrite=True)
    found = load_world(path, MODEL)
    assert is_step(found, found.chunk)
    assert [p.name for p in tmp_path.iterdir()] == ["w.zarr"]


def test_what_a_running_process_is_making_is_left_alone(tmp_path):
    mine, theirs = atomic.beside(tmp_path / "w.zarr"), tmp_path / f".w.zarr.{'0' * 8}-1-{'0' * 8}.new.tmp"
    look_alike = tmp_path / ".w.zarr.notes.tmp"
    for folder in (mine, theirs, look_alike):
        folder.mkdir()
    save_world(tmp_path / "w.zarr", *first())
    assert mine.is_dir()
    assert theirs.is_dir()
    assert look_alike.is_dir()
    os.utime(theirs, (0, 0))
    open_cache(tmp_path / "w.zarr")
    assert not theirs.exists()


def test_long_names_have_short_temporary_ones(tmp_path):
    path = tmp_path / ("w" * 240 + ".zarr")
    save_world(path, *first())
    assert is_step(load_world(path, MODEL), 0)
    deep = tmp_path.joinpath(*["d" * 200] * 30)
    for longer in (tmp_path / ("w" * 300 + ".zarr"), tmp_path / ("w" * 300 + ".zip"), deep):
        for do in (*OPERATIONS, lambda path: copy_cache(tmp_path / ("w" * 240 + ".zarr"), path)):
            with pytest.raises(MirageError, match="too long"):
                do(longer)


# Numbers that lie, with right checksums


MARKERS = {
    "a path of 2^51 frames": {"path": [[0, 2**51]]},
    "a log of 2^51 rows": {"log": [[0, 2**51]]},
    "a table of 2^51 rows": {"blocks": [[0, 2**51]]},
    "runs that overlap": {"path": [[0, 3]] * 30_000},
    "runs that go back": {"path": [[4, 8], [0, 4]]},
    "blocks twice": {"blocks": [[0, 1]] * 1000},
    "an empty run": {"path": [[3, 3]]},
    "negative rows": {"path": [[-4, 4]]},
    "broken numbers": {"path": [[0, 1.5]]},
    "a negative state": {"state": -1},
    "a chunk beyond 32 bits": {"chunk": 2**31},
    "frames beyond 32 bits": {"frames": 2**40},
    "a count of true frames": {"true_frames": 1},
    "true as a number": {"serial": True},
    "text as a number": {"serial": "1"},
    "no writer": {"writer": "../../x"},
    "an unknown key": {"colour": 3},
    "null": {"next": None},
    "a list": {"next": []},
    "a checksum of 2^70": {"crc32": {"root": 2**70}},
    "a cursor of 2^60": {"next": {"token": 2**60}},
}


@pytest.mark.parametrize("lie", MARKERS)
def test_marker_that_lies_is_refused(cache, tmp_path, lie):
    signed(cache, **MARKERS[lie])
    before = listing(tmp_path)
    for do in (lambda path: load_world(path, MODEL), lambda path: CacheWriter.open(path, MODEL), compact):
        assert isinstance(refusal(do, cache), CacheCorruptError)
    assert isinstance(refusal(open_cache, cache), CacheCorruptError) or lie.startswith(
        "a log"
    )  # which it does not read
    assert listing(tmp_path).keys() - {"home/world.zarr/.lock"} == before.keys() - {"home/world.zarr/.lock"}


ROWS = {
    "2^50 tokens": (1, 2.0**50),
    "2^50 tiles": (3, 2.0**50),
    "negative tokens": (1, -8.0),
    "no tiles": (3, 0.0),
    "half a token": (1, 100.5),
    "2^50 frames": (5, 2.0**50),
    "tokens from 2^51 on": (0, 2.0**51),
    "2^50 depth maps": (7, 2.0**50),
    "more depth maps than frames": (7, 1000.0),
    "2^50 bytes of pictures": (9, 2.0**50),
    "kind 99": (13, 99.0),
    "a birth of 2^40": (11, 2.0**40),
    "a bound of nan": (24, np.nan),
    "an anchor of inf": (21, np.inf),
}


@pytest.mark.parametrize("lie", ROWS)
def test_row_of_the_table_that_lies_is_refused(cache, lie):
    forger = Forger(cache)
    forger.in_table(forger.rows[-1], *ROWS[lie])
    assert isinstance(refusal(lambda path: load_world(path, MODEL), cache), CacheCorruptError)
    for do in (compact, open_cache):  # which read no tokens
        assert isinstance(refusal(do, cache), CacheCorruptError) or lie == "tokens from 2^51 on"


def test_world_of_too_many_tokens_is_refused_before_they_are_read(cache):
    forger = Forger(cache)
    for number in (1, 3):  # as many tiles, or they would not go together
        forger.in_table(forger.rows[-1], number, 2.0**40)
    for do in (open_cache, lambda path: load_world(path, MODEL, lazy=True), compact):
        assert "that a world can hold" in str(refusal(do, cache))


NUMBERS = {
    "a frame that there is not": ("tokens/source", 60_000, 0, "frames"),
    "a cell that there is not": ("tokens/source", 2**16 - 1, 1, "cells"),
    "no footprint": ("tokens/size", 0.0, 0, "footprints"),
    "a gain of nan": ("tokens/size", np.nan, 1, "features"),
    "a tile that ends beyond its block": ("tiles/index", 2**30, 0, "tiles"),
    "a birth before the world": ("tiles/index", -7, 1, "births"),
    "a box of nan": ("tiles/box", np.nan, 0, "boxes"),
    "a step that goes back": ("tiles/box", -1.0, 3, "boxes"),
    "a row before the first": ("frames/row", -5, 0, "frames"),
    "a pose of inf": ("frames/pose", np.inf, 0, "poses"),
    "a lens of nan": ("frames/intrinsics", np.nan, 0, "poses"),
    "a flag of 7": ("frames/true", 7, 0, "flags"),
    "a last flag of 255": ("frames/true", 255, -1, "flags"),
    "a measured one of 2": ("frames/measured", 2, 0, "flags"),
    "a measured one without a depth": ("frames/measured", 1, 0, "depth"),
    "a picture of bytes that there are not": ("frames/picture", 99, 0, "pictures"),
    "a picture of less than none": ("frames/picture", -1, 0, "pictures"),
}
DEPTHS = {
    "a depth of nan": ("depth/map", np.nan, 5, "depth"),
    "a depth of minus inf": ("depth/map", -np.inf, -1, "depth"),
    "a depth behind the camera": ("depth/map", -1.0, 0, "depth"),
    "a depth of no frame": ("frames/measured", 0, 0, "depth"),
}


@pytest.mark.parametrize("lie", NUMBERS)
def test_numbers_of_a_block_that_lie_are_refused_by_name(cache, lie):
    name, value, at, says = NUMBERS[lie]
    forger = Forger(cache)
    forger.in_block(forger.rows[-1], name, value, at)
    error = refusal(lambda path: load_world(path, MODEL), cache)
    assert isinstance(error, CacheCorruptError)
    assert "make no sense" in str(error)
    assert says in str(error)


def jpeg(size, kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return np.frombuffer(file.getvalue(), np.uint8)


def pictured(path, picture):
    """A saved world whose start view has that picture."""
    state, model, chunks = first()
    start = state.memory.blocks[0]
    memory = replace(state.memory, blocks=(replace(start, frames=start.frames.with_picture(0, picture)),))
    save_world(path, replace(state, memory=memory), model, chunks)
    return model


def test_picture_of_a_view_is_read_as_it_was_written(tmp_path):
    path, size = tmp_path / "world.zarr", MODEL.config.image_size
    model = pictured(path, jpeg(size[::-1]))
    for lazy in (True, False):
        block = load_world(path, model, lazy=lazy).memory.blocks[0]
        assert block.frames.picture(0).tobytes() == jpeg(size[::-1]).tobytes()
        assert block.frames.picture(0).nbytes == block.frames.picture_bytes[0]


@pytest.mark.parametrize("lie", ["none", "one byte less", "PNG", "wider", "a bomb", "half of it"])
def test_picture_that_lies_is_refused_by_name(tmp_path, lie):
    path, (height, width) = tmp_path / "world.zarr", MODEL.config.image_size
    whole = jpeg((width, height))
    lies = {"PNG": jpeg((width, height), "PNG"), "wider": jpeg((width + 8, height)), "a bomb": jpeg((20_000, 20_000))}
    model = pictured(path, whole[: len(whole) // 2] if lie == "half of it" else lies.get(lie, whole))
    if lie in ("none", "one byte less"):
        Forger(path).in_block(0, "frames/picture", 0 if lie == "none" else len(whole) - 1)
    error = refusal(lambda path: load_world(path, model), path)
    assert isinstance(error, CacheCorruptError)
    assert "pictures make no sense" in str(error) or "no image that can be read" in str(error)


@pytest.mark.parametrize("lie", DEPTHS)
def test_depth_that_lies_is_refused_by_name(tmp_path, lie):
    state, model, chunks = first()
    start = state.memory.blocks[0]
    size = model.config.image_size
    frames = start.frames.with_depth(0, np.full(size, 2.0, np.float16))
    memory = replace(state.memory, blocks=(replace(start, frames=frames),))
    path = tmp_path / "world.zarr"
    save_world(path, replace(state, memory=memory), model, chunks)
    assert (load_world(path, model).memory.blocks[0].frames.depth == 2.0).all()
    name, value, at, says = DEPTHS[lie]
    forger = Forger(path)
    forger.in_block(forger.rows[0], name, value, at)
    assert f"its {says} make no sense" in str(refusal(lambda path: load_world(path, model), path))


FRAME_ARRAYS = ["frames/row", "frames/true", "frames/measured", "frames/pose"]


@pytest.mark.parametrize("name", FRAME_ARRAYS)
@pytest.mark.parametrize("lie", ["wider numbers", "more rows"])
def test_file_of_other_numbers_or_of_more_rows_is_refused_by_name(cache, name, lie):
    forger = Forger(cache)
    entry = forger.entry(forger.rows[-1])
    column = forger.columns[name]
    wider = np.dtype("<f8") if column.dtype.itemsize < 8 else np.dtype("<c16")
    other = replace(column, dtype=wider) if lie == "wider numbers" else replace(column, rows=column.rows + 1)
    (key,) = column.keys(entry.frame.start, entry.frame.count)
    (cache / key).write_bytes(encode(other, np.ones((other.rows, *other.shape), other.dtype)))
    error = refusal(lambda path: load_world(path, MODEL), cache)
    assert isinstance(error, CacheCorruptError)
    assert f"{key} cannot be unpacked" in str(error)


@pytest.mark.parametrize("name", FRAME_ARRAYS)
def test_frames_that_are_missing_or_not_as_written_are_refused(cache, name):
    forger = Forger(cache)
    entry, column = forger.entry(forger.rows[-1]), forger.columns[name]
    found = forger.values(column, entry.frame.start, entry.frame.count)
    found.flat[0] = not found.flat[0]
    forger.set_rows(column, entry.frame.start, found)
    assert "its frames do not have their checksum" in str(refusal(lambda path: load_world(path, MODEL), cache))
    (key,) = column.keys(entry.frame.start, entry.frame.count)
    (cache / key).unlink()
    assert f"{key} is missing" in str(refusal(lambda path: load_world(path, MODEL), cache))


@pytest.mark.parametrize(
    ("name", "takes"), [("row", r"int32\[n"), ("true", r"bool\[n"), ("T_world_cam", r"float64\[n")]
)
def test_frames_of_another_type_are_not_written(tmp_path, name, takes):
    state, model, chunks = first()
    (block,) = state.memory.blocks
    frames = replace(block.frames, **{name: getattr(block.frames, name).astype(np.uint8)})
    memory = replace(state.memory, blocks=(replace(block, frames=frames),))
    with pytest.raises(ValueError, match=rf"frames/\w+ takes {takes}.* not uint8"):
        save_world(tmp_path / "world.zarr", replace(state, memory=memory), model, chunks)


def test_state_and_path_that_lie_are_refused(cache, tmp_path):
    lies = {
        "rotation": lambda forger: forger.in_track("poses", 1e200, -16),
        "intrinsics": lambda forger: forger.in_track("intrinsics", np.nan, -9),
        "not finite": lambda forger: forger.in_state("latents", np.inf),
        "no generator": lambda forger: [forger.in_state("noise", 255, at) for at in range(16)],
    }
    for says, lie in lies.items():
        copy = shutil.copytree(cache, tmp_path / says)
        lie(Forger(copy))
        error = refusal(lambda path: load_world(path, MODEL), copy)
        assert isinstance(error, CacheCorruptError), says
        assert says in str(error)


def test_marker_of_too_many_runs_is_refused_before_they_are_looked_at(cache):
    signed(cache, path=[[2 * n, 2 * n + 1] for n in range(MOST_RUNS + 1)])
    assert "runs of rows" in str(refusal(open_cache, cache))


def rooted(cache, change):
    """Another root, with the right checksum in the marker."""
    node = json.loads((cache / "zarr.json").read_text())
    change(node["attributes"])
    (cache / "zarr.json").write_text(json.dumps(node))
    signed(cache, crc32={"root": zlib.crc32((cache / "zarr.json").read_bytes())})


ROOTS = {
    "no memory": lambda a: a.pop("memory"),
    "memory of text": lambda a: a.update(memory="latent"),
    "2^40 channels": lambda a: a["memory"].update(channels=2**40),
    "images of 2^40": lambda a: a.update(image_size=[2**20, 2**20]),
    "negative images": lambda a: a.update(image_size=[-4, -4]),
    "latents of 2^60": lambda a: a.update(latents=[2**15] * 4),
    "latents of text": lambda a: a.update(latents="many"),
    "2^40 bytes of noise": lambda a: a.update(noise=2**40),
    "10^9 references": lambda a: a.update(references=10**9),
    "model of a list": lambda a: a.update(model=[]),
    "no rate": lambda a: a["model"].update(config={}),
    "an unknown key": lambda a: a.update(colour="red"),
    "a floor that is bent": lambda a: a.update(floor={"up": [0.0, 0.0, 7.0], "height": 0.0}),
    "a prompt of a number": lambda a: a.update(prompt=3),
    "300 MB": lambda a: a.update(prompt="x" * 3 * 2**20),
}


@pytest.mark.parametrize("lie", ROOTS)
def test_root_that_lies_is_refused(cache, lie):
    rooted(cache, ROOTS[lie])
    for do in (open_cache, lambda path: load_world(path, MODEL), lambda path: CacheWriter.open(path, MODEL)):
        assert isinstance(refusal(do, cache), CacheCorruptError)


def test_rows_that_unpack_to_more_than_a_world_does_are_refused(cache, monkeypatch):
    monkeypatch.setattr("mirage_env.store.format.arrays.FREE_BYTES", 2**12)
    monkeypatch.setattr("mirage_env.store.format.arrays.MOST_EXPANSION", 4)
    with pytest.raises(CacheCorruptError, match="unpack to more than"):
        load_frames(cache)  # frames of one colour


def test_file_that_is_larger_than_its_rows_is_not_read(cache):
    with (cache / "path/poses/c.0.0.0").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CacheCorruptError, match=r"1099511627776 bytes; such a file may have"):
        open_cache(cache)


# Zips


def packed(cache, tmp_path, compression=zipfile.ZIP_STORED, **more):
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(p for p in cache.rglob("*") if p.is_file() and p.name != ".lock"):
            archive.write(file, file.relative_to(cache).as_posix())
        for name, content in more.items():
            archive.writestr(name, content)
    return path


def test_zip_of_another_tool_is_read(cache, tmp_path):
    assert is_step(load_world(packed(cache, tmp_path, zipfile.ZIP_DEFLATED), MODEL), 2)


def test_zip_bomb_is_refused_before_anything_is_unpacked(cache, tmp_path):
    for name in ("tokens/position/c.999.0", "zarr.json"):
        with pytest.warns(UserWarning, match="Duplicate") if name == "zarr.json" else contextlib.nullcontext():
            path = packed(cache, tmp_path, zipfile.ZIP_DEFLATED, **{name: bytes(2**27)})
        assert path.stat().st_size < 2**21
        before = listing(tmp_path).keys()
        for do in OPERATIONS:
            assert refusal(do, path) is not None
        assert listing(tmp_path).keys() == before


@pytest.mark.parametrize("name", ["../escape", "/escape", "notes.txt", "tokens/../../escape", "C:\\escape"])
def test_foreign_members_are_never_unpacked(cache, tmp_path, name):
    path = packed(cache, tmp_path, **{name: "here"})
    before = listing(tmp_path).keys()
    for do in (compact, lambda p: CacheWriter.open(p, MODEL)):
        assert "belongs to no cache" in str(refusal(do, path))
    assert listing(tmp_path).keys() == before


def test_member_without_a_name_is_never_unpacked(cache, tmp_path):
    """Python's zip library fails at such names; no tool writes them."""
    path = packed(cache, tmp_path, zz="")
    data = path.read_bytes()
    at, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    name, size = slice(at + 46, at + 48), int.from_bytes(data[end + 12 : end + 16], "little") - 2
    assert data[name] == b"zz"
    entry = data[at : at + 28] + b"\0\0" + data[at + 30 : name.start] + data[name.stop : end]
    path.write_bytes(data[:at] + entry + data[end : end + 12] + size.to_bytes(4, "little") + data[end + 16 :])
    assert is_step(load_world(path, MODEL), 2)
    before = listing(tmp_path)
    for do in (compact, lambda p: CacheWriter.open(p, MODEL), lambda p: save_world(p, *first(), overwrite=True)):
        assert "belongs to no cache" in str(refusal(do, path))
    assert listing(tmp_path) == before


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_lease_stands_in_where_a_file_system_has_no_locks(cache, monkeypatch, answer):
    def refuse(*_):
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr("fcntl.flock", refuse)
    lease = cache / ".lock.lease"
    with CacheWriter.open(cache, MODEL):
        held = lease.read_bytes()
        with pytest.raises(CacheBusyError):
            CacheWriter.open(cache, MODEL)
    assert not lease.exists()
    # A killed writer leaves its lease; the number of its process is nobody's any more.
    lease.write_bytes(held.replace(str(os.getpid()).encode(), str(2**22 + 1).encode(), 1))
    os.utime(lease, (0, 0))
    save_world(cache, *first(), overwrite=True)
    CacheWriter.open(cache, MODEL).close()
    assert not lease.exists()


def test_mistake_of_this_code_is_not_called_damage(cache, monkeypatch):
    for mistake in (AttributeError, TypeError, KeyError, IndexError):
        monkeypatch.setattr(
            "mirage_env.store.reader.Opened.resumable", lambda _, m=mistake: (_ for _ in ()).throw(m("oops"))
        )
        with pytest.raises(mistake, match="oops"):
            load_world(cache, MODEL)
