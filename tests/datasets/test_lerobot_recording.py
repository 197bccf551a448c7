"""LeRobot data sets of either layout are the recording that they were made of, and say what they lack."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rgbd_folders import lens_of, room_walk
from videos import write_depth_video, write_mp4

from mirage_env import cli
from mirage_env.datasets import Clips
from mirage_env.datasets.recordings import LeRobotOptions, open_recording
from mirage_env.datasets.recordings.quantised_depth import Quantisation
from mirage_env.errors import InvalidDepthError, InvalidOptionError, InvalidPoseError, MirageError, UnsafeFileError
from mirage_env.poses import inverse, pose_from_rotation_vector, vector_from_pose, vector_from_rotation

pa = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'mirage-env[data]'")
pq = pytest.importorskip("pyarrow.parquet")

SIZE, LENGTHS, RATE = (48, 64), (4, 5), 10
STATE = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
MOUNT = pose_from_rotation_vector([0.1, 0.0, 0.2], [0.0, 0.3, 0.0])
V2 = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
V3 = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
CAMERA, DEPTH = "observation.images.wrist", "observation.images.wrist_depth"
QUANTISED = {"video.depth_min": 0.01, "video.depth_max": 7.0, "video.shift": 3.5, "video.use_log": True}
"""As LeRobot 0.6 writes it, with another range."""


@pytest.fixture(scope="module")
def walk():
    room, cameras = room_walk(3, sum(LENGTHS), SIZE)
    return cameras, [room.render(camera, samples=1) for camera in cameras]


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def codes_of(depth, low=0.01, high=7.0, shift=3.5):
    """LeRobot's numbers of metres."""
    near = np.where(np.isfinite(depth), depth, 0.0)
    share = np.log((near + shift) / (low + shift)) / np.log((high + shift) / (low + shift))
    return np.rint(4095 * share).clip(0, 4095).astype(np.uint16)


def write(folder, walk, version="v3.0", kind="image", mount=None, depth=True, **changes):
    """Two episodes; v3 has them in one file."""
    cameras, views = walk
    rows, flat = [], version == "v3.0"
    for i, (camera, view) in enumerate(zip(cameras, views, strict=True)):
        episode = int(i >= LENGTHS[0])
        v = vector_from_pose(camera.T_world_cam if mount is None else camera.T_world_cam @ inverse(mount))
        state = np.array([*v[:3], *v[4:], v[3], 0.5], np.float64)
        row = {"observation.state": state.tolist(), "timestamp": (i - episode * LENGTHS[0]) / RATE}
        row |= {"episode_index": episode, "action": [0.0] * 7}
        if kind == "image":
            row[CAMERA] = png(view.image)
        if depth and kind == "image":
            metres = np.where(np.isfinite(view.depth), view.depth, 0.0)
            row[DEPTH] = png(np.round(1000.0 * metres).astype(np.uint16))
        rows.append(row)
    about = {CAMERA: {"dtype": kind, "shape": [*SIZE, 3]}, "observation.state": {"dtype": "float64", "shape": [8]}}
    about["observation.state"]["names"] = {"motors": [f"ee.{name}" for name in STATE]}
    if depth:
        about[DEPTH] = {"dtype": kind, "shape": [*SIZE, 1], "info": {"is_depth_map": True, **QUANTISED}}
    info = {"codebase_version": version, "fps": RATE, "chunks_size": 1000, **(V3 if flat else V2)}
    info |= {"features": about, **changes}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "intrinsics.json").write_text(json.dumps(lens_of(cameras[0])))
    parts = [rows] if flat else [rows[: LENGTHS[0]], rows[LENGTHS[0] :]]
    pictures, codes = [v.image for v in views], [codes_of(v.depth) for v in views]
    cut = [slice(None)] if flat else [slice(LENGTHS[0]), slice(LENGTHS[0], None)]
    for n, part in enumerate(parts):
        where = {"chunk_index": 0, "file_index": 0, "episode_chunk": 0, "episode_index": n, "video_key": CAMERA}
        table = folder / (V3 if flat else V2)["data_path"].format(**where)
        table.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(part), table)
        if kind == "video":
            for key, encode, frames in ((CAMERA, write_mp4, pictures), (DEPTH, write_depth_video, codes)):
                file = folder / (V3 if flat else V2)["video_path"].format(**{**where, "video_key": key})
                file.parent.mkdir(parents=True, exist_ok=True)
                encode(file, np.stack(frames[cut[n]]), RATE)
    listed = [{"episode_index": n, "length": length, "tasks": ["look"]} for n, length in enumerate(LENGTHS)]
    if not flat:
        (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
        return folder
    for n, row in enumerate(listed):
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        for key in (CAMERA, DEPTH):
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            row[f"videos/{key}/from_timestamp"] = n * LENGTHS[0] / RATE
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(listed), folder / "meta/episodes/chunk-000/file-000.parquet")
    return folder


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_either_layout_gives_the_views_that_were_recorded(tmp_path, walk, version, kind):
    cameras, true = walk
    recording = open_recording(write(tmp_path / "set", walk, version, kind))
    assert (recording.count, recording.has_depth, recording.metric) == (9, True, True)
    views = list(recording.views())
    assert [v.sequence for v in views] == [0] * 4 + [1] * 5
    np.testing.assert_allclose([v.time for v in views], [0, 0.1, 0.2, 0.3, 0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    for view, camera, expected in zip(views, cameras, true, strict=True):
        np.testing.assert_allclose(view.camera.T_world_cam, camera.T_world_cam, atol=1e-6)
        np.testing.assert_allclose(view.camera.K_image, camera.K_image)
        near = np.abs(view.image.astype(int) - expected.image).mean()
        assert near == 0 if kind == "image" else near < 6  # videos lose a little
        known = np.isfinite(expected.depth) & ((expected.depth < 6.99) | (kind == "image"))
        # Steps of 12 bits are 2.8 mm at 7 m; what was clipped there is unknown.
        np.testing.assert_allclose(view.depth[known], expected.depth[known], atol=6e-4 if kind == "image" else 1.5e-3)
        assert not view.depth[np.isinf(expected.depth)].any()
    second = open_recording(tmp_path / "set", lerobot=LeRobotOptions(episodes=(1,), depth=""))
    assert next(v.name for v in second.views()) == "episode 1, frame 0"
    assert not second.has_depth


def test_poses_of_a_hand_lead_to_its_camera(tmp_path, walk):
    folder = write(tmp_path / "set", walk, mount=MOUNT)
    recording = open_recording(folder, lerobot=LeRobotOptions(T_body_cam=MOUNT))
    for view, camera in zip(recording.views(), walk[0], strict=True):
        np.testing.assert_allclose(view.camera.T_world_cam, camera.T_world_cam, atol=1e-6)


def rewritten(folder, walk, names, numbers):
    """The state column as other numbers with other names."""
    write(folder, walk)
    file = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file).to_pylist()
    for row, camera in zip(table, walk[0], strict=True):
        row["observation.state"] = numbers(camera.T_world_cam)
    pq.write_table(pa.Table.from_pylist(table), file)
    info = json.loads((folder / "meta/info.json").read_text())
    shape = list(np.shape(numbers(np.eye(4))))
    info["features"]["observation.state"] = {"dtype": "float64", "shape": shape, "names": names}
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(
    ("names", "numbers", "pose"),
    [
        (None, lambda T: T[:3, 3].tolist() + vector_from_rotation(T[:3, :3]).tolist(), ":x,y,z,rx,ry,rz"),
        (["x", "y", "z", "rx", "ry", "rz"], lambda T: [*T[:3, 3], *vector_from_rotation(T[:3, :3])], ""),
        (None, lambda T: T.tolist(), ""),
        (None, lambda T: vector_from_pose(T).tolist(), ":x,y,z,qw,qx,qy,qz"),
    ],
)
def test_poses_are_read_in_the_order_that_is_said(tmp_path, walk, names, numbers, pose):
    folder = rewritten(tmp_path / "set", walk, names, numbers)
    recording = open_recording(folder, lerobot=LeRobotOptions(pose=f"observation.state{pose}"))
    for view, camera in zip(recording.views(), walk[0], strict=True):
        np.testing.assert_allclose(view.camera.T_world_cam, camera.T_world_cam, atol=1e-6)


def test_a_row_of_fewer_numbers_than_names_is_no_pose(tmp_path, walk):
    names = ["x", "y", "z", "rx", "ry", "rz"]
    folder = rewritten(tmp_path / "set", walk, names, lambda T: [*T[:3, 3], *vector_from_rotation(T[:3, :3])][:5])
    with pytest.raises(InvalidPoseError, match=r"a row of 5 numbers, but names 6: x, y, z, rx, ry, rz"):
        list(open_recording(folder).views())


def test_without_a_column_of_poses_a_file_gives_them(tmp_path, walk):
    folder = rewritten(tmp_path / "set", walk, ["shoulder", "elbow"], lambda T: [0.0, 1.0])
    with pytest.raises(InvalidOptionError, match=r"no column of poses; name the one .* --pose .* --cameras FILE"):
        open_recording(folder)
    with pytest.raises(InvalidOptionError, match=r"observation.state has numbers .* say no pose"):
        open_recording(folder, lerobot=LeRobotOptions(pose="observation.state"))
    poses = tmp_path / "poses.npy"
    np.save(poses, np.stack([c.T_world_cam for c in walk[0]]))
    views = list(open_recording(folder, poses).views())
    np.testing.assert_allclose(views[7].camera.T_world_cam, walk[0][7].T_world_cam)
    np.save(poses, np.stack([c.T_world_cam for c in walk[0][:3]]))
    with pytest.raises(InvalidOptionError, match=r"3 poses, .* 9 frames"):
        open_recording(folder, poses)


@pytest.mark.parametrize(
    ("changes", "options", "error", "says"),
    [
        ({"codebase_version": "v1.6"}, {}, InvalidOptionError, "version v1.6; v2.0, v2.1, v3.0 are read"),
        ({}, {"image": "front"}, InvalidOptionError, "has no 'front'; it has observation.images.wrist"),
        ({}, {"episodes": (7,)}, InvalidOptionError, r"no episodes \[7\]; it has 2"),
        ({}, {"pose": "pose"}, InvalidOptionError, "no column 'pose'"),
        ({"data_path": "../../{chunk_index:03d}"}, {}, UnsafeFileError, "leads out"),
        ({"data_path": "{chunk_index.__class__}"}, {}, InvalidOptionError, "which is no path"),
        ({"data_path": "data/{episode_index:06d}"}, {}, InvalidOptionError, "names 'episode_index'"),
        ({"features": []}, {}, InvalidOptionError, "lists no features"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, walk, changes, options, error, says):
    folder = write(tmp_path / "set", walk, **changes)
    with pytest.raises(error, match=says):
        list(open_recording(folder, lerobot=LeRobotOptions(**options)).views())


def test_depth_without_a_unit_and_a_missing_lens_are_refused(tmp_path, walk):
    folder = write(tmp_path / "set", walk)
    file = folder / "meta/info.json"
    info = json.loads(file.read_text())
    for said, match in (({}, "unit is not told"), ({**QUANTISED, "video.depth_max": 0.0}, "from 0.01 to 0.0 m")):
        info["features"][DEPTH] = {"dtype": "video", "info": {"is_depth_map": True, **said}}
        file.write_text(json.dumps(info))
        with pytest.raises(InvalidDepthError, match=match):
            open_recording(folder)
    numbers = np.array([[0, 1365, 4095]], np.uint16)  # what was clipped is unknown
    np.testing.assert_allclose(Quantisation(0.0, 9.0, 0.0, False).metres(numbers), [[0.0, 3.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(Quantisation(0.5, 7.5, 0.5, True).metres(numbers), [[0.0, 1.5, 0.0]], rtol=1e-6)
    (folder / "intrinsics.json").unlink()
    with pytest.raises(InvalidOptionError, match="tells no lens"):
        open_recording(folder)
    (folder / "meta/episodes/chunk-000/file-000.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(MirageError):
        open_recording(folder)


def test_command_cuts_episodes_into_clips_and_goes_on(tmp_path, walk, capsys):
    folder, out = write(tmp_path / "set", walk), tmp_path / "clips"
    command = ["import", str(folder), "--out", str(out), "--frames", "2", "--pixels", "32", "--rate", "10"]
    assert cli.main([*command, "--views", "4"]) == 0
    assert len(Clips(out)) == 2
    again = write(tmp_path / "other", walk)
    assert cli.main(["import", str(again), *command[2:]]) == 0
    clips = Clips(out)
    assert len(clips) == 2 + 4  # no clip goes from one episode to the next
    assert clips.images.shape == (6, 2, 32, 32, 3)
    assert clips.meta["frames_per_second"] == 10.0
    np.testing.assert_allclose(clips.poses[4], [c.T_world_cam for c in walk[0][4:6]], atol=1e-6)
    capsys.readouterr()
    assert cli.main(["import", str(again), *command[2:5], "3", *command[6:]]) == 2
    assert "go on with the same, or choose another folder" in capsys.readouterr().err
