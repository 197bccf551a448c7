"""Clips in RealEstate10K's layout: pose lists, videos and folders of frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.datasets.realestate10k import (
    PoseList,
    camera_of,
    read_pose_list,
    read_video_frames,
    video_size,
    write_pose_list,
)
from mirage_env.datasets.videos import TOLERANCE_US
from mirage_env.errors import ClipError
from mirage_env.poses import inverse, pose_from_rotation_vector
from mirage_env.viz.pictures import write_video

FPS = 10
STEP = 1_000_000 // FPS


def pose_list(count=6, url="https://example.org/video", fov=1.2, size=(64, 96)):
    rng = np.random.default_rng(0)
    K = Camera.from_fov(fov, *size).K_image
    intrinsics = [K[0, 0] / size[1], K[1, 1] / size[0], K[0, 2] / size[1], K[1, 2] / size[0]]
    T = [pose_from_rotation_vector(rng.normal(size=3), 0.3 * rng.normal(size=3)) for _ in range(count)]
    return PoseList(url, STEP * np.arange(count), np.tile(intrinsics, (count, 1)), np.stack(T))


def grey_frames(count=30, size=(384, 576)):
    """Frame i is of grey level 8 i."""
    return np.broadcast_to(8 * np.arange(count, dtype=np.uint8)[:, None, None, None], (count, *size, 3)).copy()


def level(frames):
    """Which frame of `grey_frames` each is, by its grey level."""
    return (frames.reshape(len(frames), -1).mean(1) / 8).round().astype(int).tolist()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "v.mp4"
    write_video(path, grey_frames(), FPS)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames")
    for i, frame in enumerate(grey_frames(size=(32, 48))):
        Image.fromarray(frame).save(path / f"{STEP * i}.png")
    return path


class TestPoseList:
    @pytest.mark.parametrize("url", ["https://example.org/video", ""])
    def test_list_that_was_written_reads_back(self, tmp_path, url):
        poses = pose_list(url=url)
        write_pose_list(tmp_path / "a.txt", poses)
        read = read_pose_list(tmp_path / "a.txt")
        assert read.url == url
        assert np.array_equal(read.timestamps_us, poses.timestamps_us)
        assert np.allclose(read.intrinsics, poses.intrinsics, atol=1e-8)
        assert np.allclose(read.T_cam_world, poses.T_cam_world, atol=1e-7)

    def test_part_of_a_list_keeps_rows_together(self):
        poses = pose_list()
        assert np.array_equal(poses[2:5].T_cam_world, poses.T_cam_world[2:5])
        assert poses[[1, 4]].timestamps_us.tolist() == [STEP, 4 * STEP]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("https://a\n1 2 3\n", "line 2: 3 columns"),
            ("https://a\n0 " + "x " * 18, "line 2: could not convert"),
            ("0 .5 .9 .5 .5 0 0 2 0 0 0 0 2 0 0 0 0 2 0\n", "line 1: .*no rotation"),
            ("https://a\n", "no pose"),
            ("\n".join(["5 .5 .9 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"] * 2), "increase"),
        ],
    )
    def test_bad_list_is_refused_by_what_is_wrong(self, tmp_path, text, says):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(ClipError, match=says):
            read_pose_list(tmp_path / "a.txt")

    def test_missing_list_is_refused(self, tmp_path):
        with pytest.raises(ClipError, match=r"No such file.*give a pose list"):
            read_pose_list(tmp_path / "a.txt")


class TestFrames:
    @given(rows=st.sets(st.integers(0, 29), min_size=1, max_size=6), shift=st.integers(-STEP // 3, STEP // 3))
    @settings(max_examples=15, deadline=None)
    def test_video_gives_the_frames_nearest_to_the_timestamps(self, video, rows, shift):
        shift = max(-TOLERANCE_US, min(TOLERANCE_US, shift))
        times = [max(0, STEP * i + shift) for i in sorted(rows)]
        assert level(read_video_frames(video, times)) == sorted(rows)

    def test_video_and_folder_of_its_frames_agree(self, video, folder):
        times = STEP * np.array([0, 3, 17, 29])
        a, b = (read_video_frames(source, times, (32, 32)) for source in (video, folder))
        assert a.shape == b.shape == (4, 32, 32, 3)
        assert np.abs(a.astype(int) - b).max() <= 3

    def test_size_is_that_of_the_frames(self, video, folder):
        assert video_size(video) == (384, 576)
        assert video_size(folder) == (32, 48)

    @pytest.mark.parametrize("source", ["video", "folder"])
    def test_timestamp_without_a_frame_is_refused(self, source, request):
        with pytest.raises(ClipError, match="no frame at 3500000 us; the nearest is at 2900000"):
            read_video_frames(request.getfixturevalue(source), [STEP, 3_500_000])

    def test_what_cannot_be_read_is_refused(self, tmp_path):
        (tmp_path / "v.mp4").write_bytes(b"no video")
        (tmp_path / "f").mkdir()
        for path, says in (("none.mp4", "no video"), ("v.mp4", "no video that can be read"), ("f", "no frames")):
            with pytest.raises(ClipError, match=says):
                read_video_frames(tmp_path / path, [0])
            with pytest.raises(ClipError, match=says):
                video_size(tmp_path / path)
        (tmp_path / "f" / "0.png").write_bytes(b"no image")
        with pytest.raises(ClipError, match="no image"):
            read_video_frames(tmp_path / "f", [0])


class TestCameras:
    @given(
        point=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
        size=st.sampled_from([(64, 96), (32, 32), (44, 80), (30, 20), (128, 64)]),
    )
    @settings(deadline=None)
    def test_camera_sees_what_the_cropped_image_shows(self, point, size):
        """A point's place in the whole image, cropped and resized by hand, is where the camera projects it."""
        poses, (H, W) = pose_list(), (64, 96)
        camera = camera_of(poses, 2, (H, W), size)
        in_cam = np.array([*point, 1.0])
        u, v = poses.intrinsics[2, :2] * point * (W, H) + poses.intrinsics[2, 2:] * (W, H)
        shrink = min(W / size[1], H / size[0])
        expected = np.array([u - (W - shrink * size[1]) / 2, v - (H - shrink * size[0]) / 2]) / shrink
        assert np.allclose((camera.K_image @ in_cam)[:2], expected)

    def test_pose_is_the_inverse_of_the_row_in_metres(self):
        poses = pose_list()
        camera = camera_of(poses, 3, (64, 96), (32, 32), scale=2.5)
        T = inverse(poses.T_cam_world[3])
        assert np.allclose(camera.T_world_cam[:3, :3], T[:3, :3])
        assert np.allclose(camera.position, 2.5 * T[:3, 3])

    def test_camera_and_cropped_frame_agree_on_where_a_mark_is(self, tmp_path):
        """A bright spot at a known ray stays on that ray through crop and resize."""
        poses = pose_list(1, size=(60, 120))
        frame = np.zeros((60, 120, 3), np.uint8)
        frame[20:24, 70:74] = 255
        Image.fromarray(frame).save(tmp_path / "0.png")
        image = read_video_frames(tmp_path, [0], (40, 40))[0].astype(float).sum(-1)
        rows, columns = np.mgrid[:40, :40] + 0.5
        seen = np.array([(columns * image).sum(), (rows * image).sum()]) / image.sum()
        whole = camera_of(poses, 0, (60, 120), (60, 120)).K_image
        ray = np.linalg.inv(whole) @ [72.0, 22.0, 1.0]
        assert np.allclose((camera_of(poses, 0, (60, 120), (40, 40)).K_image @ ray)[:2], seen, atol=0.15)
