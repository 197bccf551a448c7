"""Reading caches of format version 1: a group of arrays per block, float32 points and float16 features.

Their points become tokens with float16 features that do not know their frame, and that nobody has confirmed.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import DTypeLike, NDArray

from mirage_env.store.backends.locations import Place
from mirage_env.store.format.world_contents import Contents, Track
from mirage_env.store.resume_state import Resumable
from mirage_env.tokens.blocks import UNKNOWN_FRAME, Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack


def read(place: Place, images: bool = False) -> Contents:
    """The world in a cache.

    Raises:
        ValueError: a part is missing or damaged, by name.
    """
    attributes, path = _attributes(place, ""), _attributes(place, "path")
    commit, settings = _attributes(place, "commit"), dict(attributes["memory"])
    chunk, cameras, slot = int(commit["chunk"]), int(commit["cameras"]), int(commit["slot"])
    if min(chunk, cameras - 1, slot) < 0 or slot > 1:
        raise ValueError(f"the commit marker holds {commit}")
    latents = _values(place, "state/latents", np.float32, slice(slot, slot + 1))[0]
    noise = _values(place, "state/noise", np.uint8, slice(slot, slot + 1))[0]
    if zlib.crc32(noise.tobytes()) != commit["noise_crc32"]:
        raise ValueError("the noise state does not have the checksum of the commit marker")
    rows = slice(cameras)
    poses = _values(place, "path/poses", np.float64, rows)
    intrinsics = _values(place, "path/intrinsics", np.float64, rows)
    if len(poses) < cameras or len(intrinsics) < cameras:
        raise ValueError(f"the path has {len(poses)} of {cameras} cameras")
    shown = None
    if images and place.read("path/frames/zarr.json") is not None:
        shown = _values(place, "path/frames", np.uint8, rows)
    names = [str(name) for name in commit["blocks"]]
    if not all(name.isdecimal() for name in names):
        raise ValueError(f"the commit marker names blocks {names}")
    if "gate" in settings:
        settings["gate"] = {k: v for k, v in settings["gate"].items() if k != "max_points"}
    about = {
        "image_size": [int(n) for n in path["image_size"]],
        "latents": list(latents.shape),
        "noise": len(noise),
        "memory": settings,
    }
    blocks = [_block(place, f"blocks/{name}", int(settings["channels"]), chunk) for name in names]
    frames_per_chunk = int(attributes["model"]["config"]["chunk_latents"]) - 1
    written = 1 + chunk * frames_per_chunk
    resumable = Resumable.from_rows({"latents": latents, "noise": noise})
    return Contents(attributes | about, chunk, written, blocks, Track(poses, intrinsics, shown), resumable)


def _block(place: Place, name: str, channels: int, chunk: int) -> MemoryBlock:
    about = _attributes(place, name)
    xyz = _values(place, f"{name}/xyz", np.float32)
    feature = _values(place, f"{name}/feature", np.float16)
    footprint = _values(place, f"{name}/footprint", np.float32)
    n, born = len(xyz), about["born"]
    if type(born) is not int or not 0 <= born <= chunk:
        raise ValueError(f"{name} was born in chunk {born!r} of {chunk}")
    if xyz.shape != (n, 3) or feature.shape != (n, channels) or footprint.shape != (n,) or not n:
        raise ValueError(f"{name} has arrays of shapes {xyz.shape}, {feature.shape} and {footprint.shape}")
    if not np.array_equal(np.stack([xyz.min(0), xyz.max(0)]), np.asarray(about["bounds"])) or footprint.min() <= 0.0:
        raise ValueError(f"{name} has other bounds than its points, or footprints of no width")
    nowhere = Frames(np.array([UNKNOWN_FRAME], np.int32), np.eye(4)[None], np.eye(3)[None])
    zeros = np.zeros(n, np.int64)
    tokens = Tokens(xyz.astype(np.float64), feature.astype(np.float32), footprint, zeros, zeros, nowhere)
    return pack(tokens, born, "float16")


def _attributes(place: Place, group: str) -> dict[str, Any]:
    return dict(_json(place, f"{group}/zarr.json".lstrip("/"))["attributes"])


def _json(place: Place, key: str) -> dict[str, Any]:
    data = place.read(key)
    if data is None:
        raise ValueError(f"{key} is missing")
    return dict(json.loads(data))


def _values(place: Place, name: str, dtype: DTypeLike, rows: slice = slice(None)) -> NDArray[Any]:
    """Some rows of an array that is split along its first axis; floats are finite."""
    about = _json(place, f"{name}/zarr.json")
    shape, per_file = tuple(about["shape"]), tuple(about["chunk_grid"]["configuration"]["chunk_shape"])
    kinds = [codec["name"] for codec in about["codecs"]]
    found = np.dtype(about["data_type"])
    if found != dtype or per_file[1:] != shape[1:] or kinds != ["bytes", "zstd"] or per_file[0] < 1:
        raise ValueError(f"{name} is {found}{list(shape)} of {kinds}, expected {np.dtype(dtype)} in rows")
    start, stop, _ = rows.indices(shape[0])
    parts = [np.zeros((0, *shape[1:]), found)]
    for i in range(start // per_file[0], -(-stop // per_file[0])):
        key = f"{name}/c/{i}" + "/0" * (len(shape) - 1)
        data = place.read(key)
        if data is None:
            raise ValueError(f"{key} is missing")
        values = np.empty(per_file, found.newbyteorder("<"))
        try:
            Zstd().decode(data, values)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{key} cannot be unpacked: {error}") from error
        parts.append(values)
    joined = np.concatenate(parts)[start - start // per_file[0] * per_file[0] :][: stop - start]
    if joined.dtype.kind == "f" and not np.isfinite(joined).all():
        raise ValueError(f"{name} holds values that are not finite")
    return joined
