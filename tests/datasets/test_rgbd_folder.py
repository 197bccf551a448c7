"""RGB-D folders of numbered files: every layout gives the views that were recorded, and says what is missing."""

import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image
from rgbd_folders import room_walk

from mirage_env import cli
from mirage_env.datasets.camera_files import read_cameras
from mirage_env.datasets.recordings import open_recording
from mirage_env.errors import MirageError

SIZE = (24, 32)


@pytest.fixture(scope="module")
def recorded():
    room, cameras = room_walk(3, 4, SIZE)
    return cameras, [room.render(camera, samples=1) for camera in cameras]


def matrix(T):
    return "\n".join(" ".join(f"{x:.12f}" for x in row) for row in T)


def open3d(folder, cameras):
    log = [f"{i} {i} {i + 1}\n{matrix(camera.T_world_cam)}" for i, camera in enumerate(cameras)]
    (folder / "trajectory.log").write_text("\n".join(log))
    # Open3D counts from the middle of the first pixel, column by column.
    K = cameras[0].K_image - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    said = {"width": SIZE[1], "height": SIZE[0], "intrinsic_matrix": K.T.ravel().tolist()}
    (folder / "camera_intrinsic.json").write_text(json.dumps(said))


def scannet(folder, cameras):
    (folder / "pose").mkdir()
    (folder / "intrinsic").mkdir()
    for i, camera in enumerate(cameras):
        (folder / f"pose/{8 + i}.txt").write_text(matrix(camera.T_world_cam))
    K = np.eye(4)
    K[:3, :3] = cameras[0].K_image - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    for name in ("color", "depth"):
        (folder / f"intrinsic/intrinsic_{name}.txt").write_text(matrix(K))


@pytest.fixture(params=[open3d, scannet])
def folder(request, recorded, tmp_path):
    cameras, views = recorded
    for part in ("color", "depth"):
        (tmp_path / part).mkdir()
    for i, view in enumerate(views):
        Image.fromarray(view.image).save(tmp_path / f"color/{8 + i}.png")
        depth = np.where(np.isfinite(view.depth), 1000.0 * view.depth, 0.0).round().astype(np.uint16)
        Image.fromarray(depth).save(tmp_path / f"depth/{8 + i}.png")
    request.param(tmp_path, cameras)
    return tmp_path


def test_views_are_those_that_were_recorded(recorded, folder):
    """Frames 8 to 11: files are in the order of their numbers, not of their names."""
    recording = open_recording(folder)
    assert (recording.has_depth, recording.metric) == (True, True)
    found = list(recording.views())
    assert len(found) == len(read_cameras(folder)) == 4
    for view, camera, true in zip(found, *recorded, strict=True):
        assert np.array_equal(view.image, true.image)
        np.testing.assert_allclose(view.camera.T_world_cam, camera.T_world_cam, atol=1e-9)
        np.testing.assert_allclose(view.camera.K_image, camera.K_image, atol=1e-9)
        near = np.isfinite(true.depth)
        assert (view.depth[near] > 0.0).mean() > 0.9
        assert np.median(np.abs(view.depth - true.depth)[near]) < 1e-3


@pytest.mark.parametrize("folder", [scannet], indirect=True)
def test_frames_without_a_pose_or_depth_are_left_out(folder, caplog):
    (folder / "pose/9.txt").write_text(matrix(np.full((4, 4), -np.inf)))
    (folder / "depth/11.png").unlink()
    with caplog.at_level(logging.WARNING):
        views = list(open_recording(folder).views())
    assert [view.name for view in views] == ["8.png", "10.png"]
    assert "1 of 4 poses" in caplog.text


@pytest.mark.parametrize("folder", [open3d], indirect=True)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "color/9.png").unlink(), "4 poses, there are 3 images"),
        (lambda f: (f / "trajectory.log").unlink(), "no poses; give them: --cameras"),
        (lambda f: (f / "camera_intrinsic.json").unlink(), "tells no lens"),
        (lambda f: (f / "camera_intrinsic.json").write_text('{"width": 4}'), "intrinsic_matrix"),
        (lambda f: [g.rename(g.with_name(f"4{g.name}")) for g in [*f.glob("depth/*")]], "no number in common"),
        (lambda f: shutil.copy(f / "color/9.png", f / "color/b9.png"), "two files have one number"),
        (lambda f: (f / "color/9.png").rename(f / "color/nine.png"), "no number in its name"),
    ],
)
def test_folder_that_lacks_something_is_refused(folder, spoil, says):
    spoil(folder)
    with pytest.raises(MirageError, match=says):
        list(open_recording(folder).views())


def test_camera_command_reads_the_poses_of_the_folder(folder, capsys):
    assert cli.main(["camera", str(folder)]) == 0
    assert "4 cameras" in capsys.readouterr().out
