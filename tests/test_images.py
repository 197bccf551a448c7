"""Images and depth maps on their way into and out of the networks."""

import numpy as np
import pytest
import torch

from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidImageError
from mirage_env.images import depth_tensor, fit_views, frames_from_uint8, frames_to_uint8, image_tensor

SIZE = (8, 12)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:  # [H, W, 3]
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_every_level_survives_the_way_to_the_networks_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    frames = frames_from_uint8(levels)
    assert frames.shape == (1, 3, 16, 16)
    assert (frames.min(), frames.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(frames_to_uint8(frames), levels)


def test_values_beyond_the_range_are_clipped_and_others_rounded():
    frames = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 0.4 / 127.5 - 1.0, 0.6 / 127.5 - 1.0]).view(1, 1, 1, 7)
    assert frames_to_uint8(frames.expand(1, 3, 1, 7))[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 0, 1]


@pytest.mark.parametrize("view", [lambda a: a[:, ::-1], lambda a: np.broadcast_to(a[:1], a.shape), np.asfortranarray])
def test_images_of_any_memory_layout_are_taken_and_copied(view):
    image = view(picture())
    tensor, before = image_tensor(image, SIZE), image.copy()
    np.testing.assert_array_equal(frames_to_uint8(tensor)[0], before)
    tensor.zero_()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("image", [picture()[..., :2], picture(size=(12, 8)), picture().astype(float), picture()[0]])
def test_what_is_no_image_of_that_size_is_refused(image):
    with pytest.raises(InvalidImageError, match=r"shape .* type"):
        image_tensor(image, SIZE)


def test_depth_that_was_not_measured_is_zero_and_no_surface_is_infinite():
    depth = np.full(SIZE, 2.0)
    depth[0, :3] = np.nan, 0.0, np.inf
    metres = depth_tensor(depth, SIZE)
    assert metres.dtype == torch.float32
    assert metres[0, 0].tolist() == [0.0, 0.0, np.inf, *[2.0] * 9]
    assert np.isnan(depth[0, 0])


@pytest.mark.parametrize(
    ("depth", "says"),
    [(np.ones((3, 6)), "shape"), (np.full(SIZE, -1.0), "96 negative"), (np.full(SIZE, np.nan), "no known pixel")],
)
def test_depth_that_says_nothing_is_refused(depth, says):
    with pytest.raises(InvalidDepthError, match=says):
        depth_tensor(depth, SIZE)


def test_views_are_fitted_each_with_its_own_depth_and_labels():
    images, depth = [picture(0), picture(1, (16, 24))], [np.full(SIZE, 2.0), np.full((16, 24), 3.0)]
    labels = [np.zeros(SIZE, np.uint8), np.ones((16, 24), np.uint8)]
    view = fit_views(images, [None, None], depth, labels, SIZE, 1.3)
    np.testing.assert_array_equal(frames_to_uint8(view.frames)[0], images[0])
    assert [float(m.unique()) for m in view.metres] == [2.0, 3.0]
    assert [int(kinds.unique()) for kinds in view.labels] == [0, 1]
    assert [(c.height, c.width) for c in view.cameras] == [SIZE, SIZE]


@pytest.mark.parametrize(
    ("views", "error", "says"),
    [
        (([], [], None, None), InvalidCameraError, "0 images"),
        (([picture()], [None, None], None, None), InvalidCameraError, "1 images and 2 cameras"),
        (([picture()] * 2, [None] * 2, [np.ones(SIZE)], None), InvalidDepthError, "1 depth maps"),
        (([picture()] * 2, [None] * 2, [np.ones(SIZE), None], None), InvalidDepthError, "some views"),
    ],
)
def test_views_that_do_not_go_together_are_refused(views, error, says):
    with pytest.raises(error, match=says):
        fit_views(*views, SIZE, 1.3)
