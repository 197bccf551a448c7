"""Files changed at random, and every way of this project to open one."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from endless_writer import CONFIG, MODEL, made_up
from gymnasium import spaces
from hostile_recordings import bags, recordings
from lying_caches import lie
from PIL import Image
from small_catalogue import FURNITURE, write_catalogue

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.camera_files.read import read_cameras
from mirage_env.datasets.clips import Clips
from mirage_env.datasets.photographs import start_view_from_files
from mirage_env.datasets.realestate10k import read_pose_list
from mirage_env.datasets.zip_arrays import read_arrays, write_arrays
from mirage_env.episodes import Episode, load_episode, save_episode
from mirage_env.files import open_picture, read_json_object
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.io.safetensors_files import read_header
from mirage_env.rooms.assets import catalogue, mesh_files
from mirage_env.store import CacheWriter, compact, load_frames, load_world, open_cache
from mirage_env.trajectories import path_from_file
from policies.learned import LearnedPolicy, NetworkConfig, View, build_network

ODD = (
    "-1",
    "0",
    "1e999",
    "NaN",
    "null",
    "true",
    '"x"',
    "[]",
    "{}",
    "9" * 400,
    str(2**31),
    str(2**51),
    str(2**63),
    "0.5",
)
FOUND = {
    "clips": (0, 2, 7, 14, 21),  # raw ValueError, UnicodeDecodeError, TokenError, JSONDecodeError, OverflowError
    "cameras.json": (47,),  # a number of 400 digits: OverflowError
    "poses.json": (47,),
    "episode": (4170065,),  # a member of a zip without a name: IndexError
}
"""Seeds of inputs that once ended in something else than an error of ours, by entry; the tests open them each time."""
VIEW = Camera.from_fov(1.0, 32, 32)


@dataclass(frozen=True)
class Entry:
    """A way to open files."""

    name: str
    make: Callable[[Path], None]
    """Writes a sound file or folder."""
    open: Callable[[Path], object]
    files: str = ""
    """Pattern of the files in the folder that are changed; empty: it is a file."""
    sign: Callable[[Path], None] = lambda path: None
    """Puts checksums right after a change, so that what they guard is reached."""
    change: Callable[[Path, random.Random], None] | None = None
    """Changes what `make` has written, where that is not a random change of a file's bytes."""


def changed(data: bytes, rng: random.Random) -> bytes:
    """Content with one to four random changes: bits, cuts, repeats, odd numbers, another file's beginning."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]
            case 2:
                data = data[:at] + bytes([rng.choice((0, 255, 127, 128))]) * rng.randint(1, 8) + data[at + 8 :]
            case 3:
                data = data[:at] + data[at : at + 64] * rng.randint(2, 40) + data[at:]
            case 4:
                numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:100_000]))
                if numbers:
                    found = rng.choice(numbers)
                    data = data[: found.start()] + rng.choice(ODD).encode() + data[found.end() :]
            case 5:
                words = list(re.finditer(rb'"[^"]*"|\[|\]|\{|\}|:|,', data[:100_000]))
                if words:
                    found = rng.choice(words)
                    data = data[: found.start()] + rng.choice(ODD).encode() + data[found.end() :]
            case _:
                data = (
                    data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if at < len(data) else data
                )
    return data


def spoil(entry: Entry, path: Path, rng: random.Random) -> None:
    """Change a file of what `entry.make` has written."""
    if entry.change is not None:
        entry.change(path, rng)
        return
    files = [path] if not entry.files else sorted(p for p in path.glob(entry.files) if p.is_file())
    file = rng.choice(files)
    file.write_bytes(changed(file.read_bytes(), rng))
    entry.sign(path)


def entries() -> Iterator[Entry]:
    """Every entry point."""

    def read_all(path: Path) -> None:
        open_cache(path)
        load_world(path, MODEL)
        load_frames(path)
        compact(path)
        CacheWriter.open(path, MODEL).close()

    yield Entry("cache folder", _cache, read_all, "**/*")
    yield Entry("signed marker", _cache, read_all, "commit/zarr.json", _sign_marker)
    yield Entry("signed root", _cache, read_all, "zarr.json", _sign_root)
    yield Entry("signed numbers", _cache, read_all, change=lie)
    yield Entry("cache zip", _cache, read_all)
    yield Entry("episode", _episode, load_episode)
    yield Entry("arrays", _arrays, read_arrays)
    yield Entry("arrays, unpacked", _loose_arrays, _read_packed, "**/zarr.json")
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"):
        yield Entry(f"{kind} picture", lambda path, kind=kind: _picture(path, kind), open_picture)
    yield Entry("start view", lambda path: _picture(path, "PNG"), lambda path: start_view_from_files(CONFIG, path))
    yield Entry("depth", _depth, lambda path: start_view_from_files(CONFIG, _photo(path), path))
    for ending in (".json", ".npy", ".txt"):
        yield Entry(f"poses{ending}", _poses, lambda path: path_from_file(path, VIEW))
    yield Entry("cameras.npz", _npz, read_cameras)
    yield Entry("cameras.json", _nerfstudio, read_cameras)
    yield Entry("COLMAP", _colmap, read_cameras, "*.bin")
    yield Entry("pose list", _pose_list, read_pose_list)
    yield Entry("clips", _clips, _read_clips, "*")
    yield Entry("policy", _policy, LearnedPolicy.load, "*")
    yield Entry("mirage.json", _settings, WorldModelConfig.load, "mirage.json")
    yield Entry("config.json", lambda path: _json(path, {"widths": [4, 8], "name": "x"}), read_json_object)
    yield Entry("weights", _weights, read_header, sign=_sign_weights)
    yield Entry("furniture", _furniture, _read_furniture, "**/*")
    for made in recordings() + bags():
        yield Entry(*made)


def suffix_of(entry: Entry) -> str:
    """Ending that a file of an entry needs."""
    known = {"cache zip": ".zip", "depth": ".png", "episode": ".zarr.zip", "arrays": ".zarr.zip", "COLMAP": ""}
    named = entry.name.startswith(("poses", "cameras", "robot"))
    return known.get(entry.name, "." + entry.name.partition(".")[2] if named else ".x")


def _cache(path: Path) -> None:
    chunk, state = made_up(0, LatentMemory.empty(CONFIG), points=40)
    (block,), (height, width), file = state.memory.blocks, CONFIG.image_size, io.BytesIO()
    Image.new("RGB", (width, height), (200, 90, 40)).save(file, "JPEG")
    frames = block.frames.with_picture(0, np.frombuffer(file.getvalue(), np.uint8))
    frames = frames.with_depth(0, np.full((height, width), 2.0, np.float16))
    state = replace(state, memory=replace(state.memory, blocks=(replace(block, frames=frames),)))
    with CacheWriter.create(path, state, MODEL, [chunk], frames=True) as writer:
        chunk, state = made_up(1, state.memory, points=40)
        writer.append(state, chunk)


def _sign_marker(path: Path) -> None:
    file = path / "commit/zarr.json"
    try:
        about = json.loads(file.read_bytes())["attributes"]
        about.pop("check", None)
        about["check"] = zlib.crc32(json.dumps(about, sort_keys=True, separators=(",", ":")).encode())
        node = {"attributes": about, "node_type": "group", "zarr_format": 3}
        file.write_text(json.dumps(node, sort_keys=True, separators=(",", ":")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # beyond repair


def _sign_root(path: Path) -> None:
    file = path / "commit/zarr.json"
    node = json.loads(file.read_bytes())
    node["attributes"]["crc32"]["root"] = zlib.crc32((path / "zarr.json").read_bytes())
    file.write_text(json.dumps(node))
    _sign_marker(path)


def _episode(path: Path) -> None:
    rows, steps = np.zeros((3, 4, 4, 3), np.uint8), np.zeros(2)
    flags = np.zeros(2, bool)
    episode = Episode({"pixels": rows}, np.zeros((2, 6)), steps, flags, flags, counts=np.ones(3, np.int64))
    save_episode(path, episode)


def _arrays(path: Path) -> None:
    values = {"a": np.arange(60, dtype=np.float32).reshape(5, 12), "g/b": np.ones(4, bool), "c": np.zeros((), np.int64)}
    write_arrays(path, values, {"text": "x"})


def _loose_arrays(path: Path) -> None:
    _arrays(path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as archive:
        archive.extractall(path)
    path.with_suffix(".whole").unlink()


def _read_packed(path: Path) -> None:
    with _packed(path) as file:
        read_arrays(file)


@contextmanager
def _packed(path: Path) -> Iterator[Path]:
    """A zip of a folder, for a while."""
    packed = path.with_suffix(".packed")
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(path).as_posix())
    try:
        yield packed
    finally:
        packed.unlink()


def _picture(path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    path.write_bytes(file.getvalue())


def _photo(path: Path) -> Path:
    photo = path.with_suffix(".photo")
    if not photo.exists():
        _picture(photo, "PNG")
    return photo


def _depth(path: Path) -> None:
    Image.fromarray(np.full((32, 48), 2000, np.uint16)).save(path, "PNG")


def _poses(path: Path) -> None:
    poses = np.stack([np.eye(4)] * 3)
    if path.suffix == ".npy":
        np.save(path, poses)
    elif path.suffix == ".json":
        _json(path, poses.tolist())
    else:
        path.write_text("# TUM\n" + "\n".join(f"{n}.0 0 0 {n} 0 0 0 1" for n in range(3)))


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, cams2world=np.stack([np.eye(4)] * 3), intrinsics=np.stack([VIEW.K_image] * 3))


def _nerfstudio(path: Path) -> None:
    frames = [{"file_path": f"images/{n}.png", "transform_matrix": np.eye(4).tolist()} for n in range(3)]
    _json(path, {"fl_x": 30.0, "fl_y": 30.0, "cx": 16.0, "cy": 16.0, "w": 32, "h": 32, "frames": frames})


def _colmap(path: Path) -> None:
    path.mkdir()
    (path / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 32, 32, 30.0, 30.0, 16.0, 16.0))
    images = struct.pack("<Q", 2)
    for n in range(2):
        images += struct.pack("<i7di", n, 1.0, *[0.0] * 6, 1) + b"a.png\0" + struct.pack("<Qddq", 1, 1.0, 2.0, -1)
    (path / "images.bin").write_bytes(images)
    point = struct.pack("<Q3d3BdQii", 1, 0.5, 1.5, 2.5, 0, 0, 0, 0.1, 1, 1, 0)
    (path / "points3D.bin").write_bytes(struct.pack("<Q", 1) + point)


def _pose_list(path: Path) -> None:
    row = "0.8 1.1 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"
    path.write_text("https://example.org/watch\n" + "\n".join(f"{n * 33000} {row}" for n in range(3)) + "\n")


def _clips(path: Path) -> None:
    path.mkdir()
    pictures = {"images": np.zeros((2, 3, 8, 8, 3), np.uint8), "depth": np.ones((2, 3, 8, 8), np.float16)}
    cameras = {"poses": np.tile(np.eye(4), (2, 3, 1, 1)), "intrinsics": np.tile(np.eye(3), (2, 1, 1))}
    for name, values in {**pictures, **cameras, "labels": np.zeros((2, 3, 8, 8), np.uint8)}.items():
        np.save(path / f"{name}.npy", values)
    _json(path / "clips.json", {"clips": 2, "frames_per_second": 8.0})


def _read_clips(path: Path) -> None:
    clips = Clips(path)
    for n in range(min(len(clips), 3)):
        clips.images[n], clips.depth[n], clips.poses[n]


def _policy(path: Path) -> None:
    numbers = spaces.Box(-1.0, 1.0, (3,), np.float32)
    seen = spaces.Dict({"goal": numbers, "pixels": spaces.Box(0, 255, (16, 16, 3), np.uint8)})
    view, config = View(("goal", "pixels"), 8), NetworkConfig(hidden=(4,), image_width=2)
    LearnedPolicy(build_network(view.space(seen), numbers, config), view, seen, config).save(path)


def _settings(path: Path) -> None:
    path.mkdir()
    WorldModelConfig("tiny", (32, 32), (4, 4), 8, chunk_latents=5).save(path)


def _json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values))


def _sign_weights(path: Path) -> None:
    """The length of the header that there is now; the tensors have 32 bytes."""
    data = path.read_bytes()
    path.write_bytes(max(0, len(data) - 40).to_bytes(8, "little") + data[8:])


def _furniture(path: Path) -> None:
    write_catalogue(path.with_suffix(".whole"), furniture=FURNITURE[::12])
    with zipfile.ZipFile(path.with_suffix(".whole")) as archive:
        archive.extractall(path)
    path.with_suffix(".whole").unlink()


def _read_furniture(path: Path) -> None:
    with _packed(path) as file:
        for model in catalogue._models(file):
            mesh_files._made(model)


def _weights(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16)}, path)


def renew(path: Path, sound: Path) -> None:
    """Put a copy of a sound file or folder in the place of a changed one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.copytree(sound, path) if sound.is_dir() else shutil.copy(sound, path)
