"""Recordings and messages of every layout, as small as they can be, for `hostile.py` to change."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.datasets.camera_files.read import read_cameras
from mirage_env.datasets.recordings import LeRobotOptions, open_recording
from mirage_env.poses import pose_from_rotation_vector, vector_from_pose
from mirage_env.serving.wire import pack, unpack

SIDE, COUNT = 16, 3
CAMERA = Camera.from_fov(1.0, SIDE, SIDE)
LENS = {"fx": 15.0, "fy": 15.0, "cx": 8.0, "cy": 8.0, "width": SIDE, "height": SIDE}
POSES = [pose_from_rotation_vector([0.1 * n, 0.0, 0.0], [0.0, 0.02 * n, 0.0]) for n in range(COUNT)]
Made = tuple[str, Callable[[Path], object], Callable[[Path], object], str]
"""Name, maker, opener and the files that are changed."""


def recordings() -> list[Made]:
    """Every layout of a recording but bags."""
    return [
        ("RGB-D folder", _tum, _all_views, "**/*"),
        ("photographs", _photographs, _all_views, "**/*"),
        ("COLMAP text", _colmap_text, read_cameras, "*.txt"),
        ("video with poses", _video, _video_views, "*"),
        ("LeRobot v3", _lerobot_v3, _all_views, "**/*"),
        ("LeRobot v2", _lerobot_v2, _lerobot_v2_views, "**/*"),
        ("message.wire", _message, lambda path: unpack(path.read_bytes()), ""),
    ]


def bags() -> list[Made]:
    """Bags of ROS 2 in both containers, and of ROS 1."""
    from ros_bridge.bag.world_to_bag import read_bag

    return [
        ("bag, mcap", _mcap, read_bag, "**/*"),
        ("bag, sqlite", _sqlite, read_bag, "**/*"),
        ("robot.bag", _ros1, read_bag, ""),
    ]


def _all_views(path: Path) -> list[object]:
    return list(open_recording(path).views())


def _png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def _image(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def _depth(n: int) -> np.ndarray:
    return np.full((SIDE, SIDE), 2000 + n, np.uint16)


def _tum(path: Path) -> None:
    for kind in ("rgb", "depth"):
        (path / kind).mkdir(parents=True)
    rows: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for n, pose in enumerate(POSES):
        (path / f"rgb/{n}.png").write_bytes(_png(_image(n)))
        (path / f"depth/{n}.png").write_bytes(_png(_depth(n)))
        v = vector_from_pose(pose)
        rows["rgb"].append(f"{n}.0 rgb/{n}.png")
        rows["depth"].append(f"{n}.01 depth/{n}.png")
        rows["groundtruth"].append(" ".join(map(str, (float(n), *v[:3], *v[4:], v[3]))))
    for name, lines in rows.items():
        (path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    said = {"color": LENS, "depth": LENS, "T_color_depth": np.eye(4).tolist()}
    (path / "intrinsics.json").write_text(json.dumps(said))


def _photographs(path: Path) -> None:
    (path / "images").mkdir(parents=True)
    frames = []
    for n, pose in enumerate(POSES):
        (path / f"images/{n}.png").write_bytes(_png(_image(n)))
        (path / f"images/{n}_depth.png").write_bytes(_png(_depth(n)))
        names = {"file_path": f"images/{n}.png", "depth_file_path": f"images/{n}_depth.png"}
        frames.append({**names, "transform_matrix": pose.tolist()})
    lens = {"fl_x": 15.0, "fl_y": 15.0, "cx": 8.0, "cy": 8.0, "w": SIDE, "h": SIDE, "k1": 0.01}
    (path / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))


def _colmap_text(path: Path) -> None:
    path.mkdir()
    (path / "cameras.txt").write_text("# lenses\n1 SIMPLE_RADIAL 16 16 15 8 8 0.01\n")
    lines = [f"{n + 1} 1 0 0 0 0 0 {n} 1 {n}.png\n1.5 2.5 1 3 4 -1" for n in range(COUNT)]
    (path / "images.txt").write_text("\n".join(lines) + "\n")
    (path / "points3D.txt").write_text("1 0.5 1.5 2.5 0 0 0 0.1 1 0\n")


def _video(path: Path) -> None:
    from videos import write_mp4

    path.mkdir()
    write_mp4(path / "video.mp4", np.stack([_image(n) for n in range(COUNT)]), 10)
    (path / "poses.json").write_text(json.dumps([pose.tolist() for pose in POSES]))


def _video_views(path: Path) -> list[object]:
    from mirage_env.datasets.camera_files import Lens

    lens = Lens(15.0, 15.0, 8.0, 8.0, SIDE, SIDE)
    return list(open_recording(path / "video.mp4", path / "poses.json", lens).views())


def _lerobot(path: Path, version: str, about: dict[str, object], rows: list[dict[str, object]], table: str) -> None:
    from pyarrow import Table, parquet

    names = ["x", "y", "z", "qx", "qy", "qz", "qw"]
    features = {"observation.state": {"dtype": "float64", "shape": [7], "names": names}, **about}
    places = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/episode_{episode_index:06d}.mp4",
    }
    if version != "v3.0":
        places["data_path"] = "data/episode_{episode_index:06d}.parquet"
    info = {"codebase_version": version, "fps": 10, "chunks_size": 1000, **places, "features": features}
    (path / "meta").mkdir(parents=True)
    (path / "meta/info.json").write_text(json.dumps(info))
    (path / "intrinsics.json").write_text(json.dumps(LENS))
    for n, row in enumerate(rows):
        v = vector_from_pose(POSES[n])
        row |= {"observation.state": [*v[:3], *v[4:], v[3]], "timestamp": 0.1 * n, "episode_index": 0}
    (path / table).parent.mkdir(parents=True)
    parquet.write_table(Table.from_pylist(rows), path / table)


def _lerobot_v3(path: Path) -> None:
    from pyarrow import Table, parquet

    about = {
        "image": {"dtype": "image", "shape": [SIDE, SIDE, 3]},
        "depth": {"dtype": "image", "shape": [SIDE, SIDE, 1], "info": {"is_depth_map": True}},
    }
    rows = [{"image": {"bytes": _png(_image(n))}, "depth": {"bytes": _png(_depth(n))}} for n in range(COUNT)]
    _lerobot(path, "v3.0", about, rows, "data/chunk-000/file-000.parquet")  # type: ignore[arg-type]
    (path / "meta/episodes/chunk-000").mkdir(parents=True)
    place = {"episode_index": 0, "length": COUNT, "data/chunk_index": 0, "data/file_index": 0}
    parquet.write_table(Table.from_pylist([place]), path / "meta/episodes/chunk-000/file-000.parquet")


def _lerobot_v2(path: Path) -> None:
    from videos import write_mp4

    rows: list[dict[str, object]] = [{} for _ in range(COUNT)]
    _lerobot(path, "v2.1", {"image": {"dtype": "video", "shape": [SIDE, SIDE, 3]}}, rows, "data/episode_000000.parquet")
    (path / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": COUNT}) + "\n")
    (path / "videos/image").mkdir(parents=True)
    write_mp4(path / "videos/image/episode_000000.mp4", np.stack([_image(n) for n in range(COUNT)]), 10)


def _lerobot_v2_views(path: Path) -> list[object]:
    return list(open_recording(path, lerobot=LeRobotOptions(episodes=(0,))).views())


def _message(path: Path) -> None:
    path.write_bytes(
        pack({"verb": "step", "seed": 3}, {"action": np.zeros(6, np.float32), "depth": np.ones((2, 4, 4))})
    )


def _mcap(path: Path) -> None:
    from ros_bridge.bag.world_to_bag import write_bag

    cameras = [CAMERA.at(pose) for pose in POSES]
    images = np.stack([_image(n) for n in range(COUNT)])
    write_bag(path, cameras, images, 10.0, depth=np.ones(images.shape[:3], np.float32), start=10**18)


def _sqlite(path: Path) -> None:
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    from ros_bridge.bag.rosbag_files import TYPES

    _mcap(whole := path.with_suffix(".whole"))
    made: dict[str, object] = {}
    with Reader(whole) as reader, Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for row, stamp, data in reader.messages():
            if row.topic not in made:
                made[row.topic] = writer.add_connection(row.topic, row.msgtype, typestore=TYPES)
            writer.write(made[row.topic], stamp, data)
    shutil.rmtree(whole)


def _ros1(path: Path) -> None:
    from rosbags import rosbag1
    from rosbags.rosbag2 import Reader

    from ros_bridge.bag.rosbag_files import TYPES, _ros1_digest, _ros1_types

    _mcap(whole := path.with_suffix(".whole"))
    made: dict[str, object] = {}
    with Reader(whole) as reader, rosbag1.Writer(path) as writer:
        for row, stamp, data in reader.messages():
            if row.topic not in made:
                definition = _ros1_types().generate_msgdef(row.msgtype)[0]
                digest = _ros1_digest(row.msgtype)
                made[row.topic] = writer.add_connection(row.topic, row.msgtype, msgdef=definition, md5sum=digest)
            writer.write(made[row.topic], stamp, TYPES.cdr_to_ros1(data, row.msgtype))
    shutil.rmtree(whole)
