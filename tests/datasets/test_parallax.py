"""Images without depth tell whether their poses are in other axes, and which."""

from dataclasses import replace

import numpy as np
import pytest
from rgbd_folders import room_walk

from mirage_env.datasets.parallax import check_parallax
from mirage_env.datasets.recordings import PosedView
from mirage_env.datasets.recordings.checked import checked_views
from mirage_env.datasets.reprojection import OPENGL, T_BODY_OPTICAL, Views
from mirage_env.errors import ClipError
from mirage_env.poses import inverse

WRONG = {
    "OpenGL axes: multiply": lambda T: T @ OPENGL,
    "world-to-camera: invert": inverse,
    "of a body": lambda T: T @ inverse(T_BODY_OPTICAL),
}


@pytest.fixture(scope="module")
def walk() -> list[PosedView]:
    room, cameras = room_walk(4, 22, (48, 64))
    return [PosedView(room.render(camera, samples=1).image, camera) for camera in cameras[::3]]


def views_of(walk: list[PosedView], K_scale: float = 1.0) -> Views:
    images, poses = np.stack([v.image for v in walk]), np.stack([v.camera.T_world_cam for v in walk])
    K = walk[0].camera.K_image.copy()
    K[:2] *= K_scale
    return Views(images, np.zeros(images.shape[:3], np.float32), poses, K)


def test_true_poses_are_accepted_in_any_unit_and_frame(walk):
    views = views_of(walk)
    check_parallax(views, "clip")
    far = OPENGL @ views.poses
    far[:, :3, 3] *= 1000.0
    check_parallax(replace(views, poses=far), "clip")


@pytest.mark.parametrize("cause", WRONG)
def test_recording_without_depth_is_refused_with_the_cause(walk, cause):
    wrong = [replace(v, camera=v.camera.at(WRONG[cause](v.camera.T_world_cam))) for v in walk]
    with pytest.raises(ClipError, match=rf"photographs, view \d+ and view \d+: .* if the poses were .*{cause}"):
        list(checked_views(wrong, "photographs"))


def test_intrinsics_of_another_image_size_are_found(walk):
    with pytest.raises(ClipError, match="half as large: double them"):
        check_parallax(views_of(walk, 0.5), "clip")


def test_images_without_texture_say_nothing(walk):
    flat = [replace(v, image=np.full_like(v.image, 90), camera=v.camera.at(OPENGL)) for v in walk]
    assert len(list(checked_views(flat, "photographs"))) == len(walk)
