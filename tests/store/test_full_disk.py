"""A disk that is full while a cache is written: an error of ours that says so, and the world that was there stays."""

import contextlib
import resource
import shutil
import subprocess

import pytest
from endless_writer import CONFIG, MODEL, is_step, made_up

from mirage_env.errors import StoreError
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheWriter, compact, copy_cache, load_world, save_world


def begun():
    chunk, state = made_up(0, LatentMemory.empty(CONFIG))
    return state, chunk


def save(path):
    state, chunk = begun()
    save_world(path.with_name(f"new{path.suffix}"), state, MODEL, [chunk])


def overwrite(path):
    state, chunk = begun()
    save_world(path, state, MODEL, [chunk], overwrite=True)


def append(path):
    with CacheWriter.open(path, MODEL) as writer:
        for _ in range(2):
            chunk, state = made_up(writer.state.chunk + 1, writer.state.memory)
            writer.append(state, chunk)


OPERATIONS = {
    "save": save,
    "overwrite": overwrite,
    "copy": lambda path: copy_cache(path, path.with_name(f"copy{path.suffix}")),
    "compact": compact,
    "append": append,
}
LAST = 3
"""Step of the world that is there."""


@pytest.fixture(scope="module", params=["world.zarr", "world.zip"])
def original(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / request.param
    state, chunk = begun()
    with CacheWriter.create(path, state, MODEL, [chunk], frames=True) as writer:
        for _ in range(LAST):
            chunk, state = made_up(state.chunk + 1, state.memory)
            writer.append(state, chunk)
        writer.close(compact=False)  # so that there is something to compact
    return path


def copied(original, folder):
    copy = shutil.copytree if original.is_dir() else shutil.copy
    return type(original)(copy(original, folder / original.name))


@contextlib.contextmanager
def no_file_above(size):
    """Files of this process cannot grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 300])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_write_that_fails_says_why_and_loses_nothing(original, tmp_path, operation, size):
    path = copied(original, tmp_path)
    with no_file_above(size), pytest.raises(StoreError, match=r"new|copy|world") as caught:
        OPERATIONS[operation](path)
    assert "raise the limit" in str(caught.value) or "File too large" in str(caught.value)
    found = load_world(path, MODEL)
    assert found.chunk >= LAST
    assert is_step(found, found.chunk)
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, f"{path.name}.writing"}
    append(path)  # once there is room, it goes on
    assert is_step(load_world(path, MODEL), found.chunk + 2)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 4 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_real_full_disk_is_named_as_such(small_disk, original):
    folder = small_disk / original.suffix[1:]
    folder.mkdir()
    path = copied(original, folder)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    for operation in (save, overwrite, compact, append):
        with pytest.raises(StoreError, match=r"disk is full|No space left"):
            operation(path)
        assert is_step(load_world(path, MODEL), LAST)
    filler.unlink()
    append(path)
    assert is_step(load_world(path, MODEL), LAST + 2)
    shutil.rmtree(folder)
