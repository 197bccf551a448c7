"""Checks of the package and of its libraries; arguments replace what a check looks at.

Libraries are imported here by their names, to see whether they load; nothing of them is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from mirage_env.doctor.finding import Finding
from mirage_env.errors import MirageError

DISTRIBUTION = "mirage-env"
AGAIN = "pip install -c constraints.txt -e ."
EXTRAS = {
    "bag": "worlds as rosbag2 files",
    "cameras": "undistorted views of lenses of others",
    "cloud": "caches in object stores, worlds with versions",
    "data": "rollouts as Minari and LeRobot datasets",
    "docs": "the documentation as pages",
    "heic": "photographs of phones (HEIC)",
    "mesh": "worlds as meshes",
    "mujoco": "MuJoCo scenes as worlds",
    "eval": "mirage eval",
    "full": "full-size models, and parts that wait in main memory",
    "notebook": "worlds shown in Jupyter",
    "pictures": "mirage walk: videos and plots",
    "play": "mirage play",
    "quantise": "full-size models with 8-bit weights",
    "record": "recordings for Rerun",
    "rl": "mirage train-policy",
    "ros": "mirage ros on machines without ROS 2",
    "test": "the tests",
    "train": "mirage train",
    "triton": "the readout on a GPU",
    "rooms": "rooms with photographic materials and real furniture",
    "scale": "rollouts, training and serving on a Ray cluster",
    "serve": "mirage serve and its clients",
    "viewer": "mirage view",
}
"""What each extra of the package gives."""


def libraries(names: Sequence[str] = ("diffusers", "transformers", "zarr", "gymnasium")) -> Iterator[Finding]:
    """Libraries that break most often when something else is installed beside them."""
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            yield Finding("problem", name, f"does not load ({error})", f"install the tested versions; {AGAIN}")
        else:
            yield Finding("ok", name, version(name))


def kernels() -> Iterator[Finding]:
    """Cache of compiled kernels between runs."""
    try:
        place = importlib.import_module("mirage_env.readout.zbuffer_numba")._scan.stats.cache_path
    except (ImportError, RuntimeError) as error:
        advice = "export NUMBA_CACHE_DIR=FOLDER, one that can be written"
        yield Finding("problem", "numba cache", f"no place for it ({error})", advice)
    else:
        yield Finding("ok", "numba cache", f"{place}; only the first walk compiles")


def weights(folder: Path = Path(__file__).parents[1] / "weights") -> Iterator[Finding]:
    """Integrity of the shipped models."""
    files = sorted(folder.rglob("*.safetensors"))
    models = sorted(path.parent.name for path in folder.glob("*/mirage.json"))
    broken = ", ".join(str(file.relative_to(folder)) for file in files if not _whole(file))
    if not models or not files:
        yield Finding("problem", "weights", f"no model in {folder}", f"install the package again; {AGAIN}")
    elif broken:
        yield Finding("problem", "weights", f"damaged: {broken}", "install the package again, or git checkout them")
    else:
        size = sum(file.stat().st_size for file in files) / 2**20
        yield Finding("ok", "weights", f"{', '.join(models)}: {len(files)} files, {size:.0f} MiB")


def _whole(file: Path) -> bool:
    """True if a safetensors file is as long as its header says."""
    content = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > content:
            return False
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return content == 8 + length + max(ends, default=0)


def video(program: Callable[[], str] | None = None) -> Iterator[Finding]:
    """The ffmpeg that writes videos; `program` returns its path."""
    try:
        place = (program or importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe)()
        done = subprocess.run([place, "-version"], capture_output=True, text=True, check=True)
    except ImportError:
        yield Finding(
            "note", "ffmpeg", "not installed", f"pip install '{DISTRIBUTION}[pictures]' for {EXTRAS['pictures']}"
        )
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        advice = "pip install --force-reinstall imageio-ffmpeg, or export IMAGEIO_FFMPEG_EXE=PATH"
        yield Finding("problem", "ffmpeg", f"none that runs ({error})", advice)
    else:
        yield Finding("ok", "ffmpeg", " ".join(done.stdout.split()[1:3]))


def ros() -> Iterator[Finding]:
    """The rclpy of ROS 2, or something that only has its name."""
    from ros_bridge import _ros
    from ros_bridge.package_owners import check_owners

    try:
        check_owners()
        _ros.require_ros()
    except MirageError as error:
        # Where there is something of that name, somebody wants ROS.
        yield Finding("problem" if importlib.util.find_spec("rclpy") else "note", "ROS 2", str(error))
    else:
        place = os.environ.get("ROS_DISTRO") or _ros.rclpy.__file__
        yield Finding("ok", "ROS 2", f"rclpy of {place}")


def extras(lines: Sequence[str] | None = None) -> Iterator[Finding]:
    """Installed and missing extras; `lines` are the requirements of the package."""
    try:
        lines = requires(DISTRIBUTION) or [] if lines is None else lines
    except PackageNotFoundError:
        yield Finding("problem", "package", f"{DISTRIBUTION} is not installed", AGAIN)
        return
    for extra, gives in EXTRAS.items():
        if not any(f'extra == "{extra}"' in line for line in lines):
            continue  # not yet an extra when the package was installed
        missing = [name for name in _packages(extra, lines) if not _installed(name)]
        if missing:
            advice = f"pip install '{DISTRIBUTION}[{extra}]' for {gives}"
            yield Finding("note", f"[{extra}]", f"lacks {', '.join(missing)}", advice)
        else:
            yield Finding("ok", f"[{extra}]", gives)


def _packages(extra: str, lines: Sequence[str]) -> Iterator[str]:
    """Names of the packages of an extra, with those of the extras it names."""
    for line in lines:
        if f'extra == "{extra}"' in line:
            name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
            if name != DISTRIBUTION:
                yield name
            elif named := re.search(r"\[(.*?)\]", line):
                for other in named[1].split(","):
                    yield from _packages(other, lines)


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def walk(model: str = "rooms") -> Iterator[Finding]:
    """Load a model, every weight checked, and take three steps; the first, which compiles, is not counted."""
    import mirage_env

    try:
        world = mirage_env.load_world_model(model)
    except MirageError as error:
        yield Finding("problem", "walk", str(error), f"install the package again; {AGAIN}")
        return
    env = mirage_env.MirageEnv(world, start_views="mirage_env.rooms:start_view")
    env.reset(seed=7)
    env.step(env.action_space.sample() * 0.1)
    began = time.perf_counter()
    for _ in range(2):
        env.step(env.action_space.sample() * 0.1)
    rate = 2 * world.config.frames_per_chunk / (time.perf_counter() - began)
    yield Finding("ok", "walk", f"{world.identity}, {rate:.1f} frames/s")
