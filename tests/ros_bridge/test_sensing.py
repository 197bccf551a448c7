"""Transforms, synchronisation, rectification and camera mounts: properties, without ROS."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.errors import InvalidCameraError, InvalidPoseError
from mirage_env.poses import pose_from_rotation_vector, rotation_angle
from ros_bridge.messages.message_types import NANO
from ros_bridge.sensing.camera_mount import CameraMount, level, map_from_world, world_from_map
from ros_bridge.sensing.rectification import distort, rectifier_from_info
from ros_bridge.sensing.synchronizer import ApproximateTimeSynchronizer
from ros_bridge.sensing.transform_buffer import TransformBuffer, interpolate

numbers = st.floats(-3.0, 3.0)
poses = st.builds(
    pose_from_rotation_vector, st.tuples(numbers, numbers, numbers), st.tuples(*[st.floats(-1.7, 1.7)] * 3)
)


# Transforms


@given(poses, poses, poses)
def test_transforms_compose_along_the_tree_in_both_directions(T_map_odom, T_odom_base, T_base_cam):
    buffer = TransformBuffer()
    buffer.add("map", "odom", 0, T_map_odom, static=True)
    buffer.add("odom", "/base", 5, T_odom_base)
    buffer.add("base", "cam", 0, T_base_cam, static=True)
    buffer.add("odom", "other", 5, T_base_cam)
    T_map_cam = T_map_odom @ T_odom_base @ T_base_cam
    np.testing.assert_allclose(buffer.lookup("map", "cam", 5), T_map_cam, atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("cam", "map", 5), np.linalg.inv(T_map_cam), atol=1e-12)
    T_other_cam = np.linalg.inv(T_base_cam) @ T_odom_base @ T_base_cam
    np.testing.assert_allclose(buffer.lookup("other", "cam", 5), T_other_cam, atol=1e-12)
    assert buffer.moves("cam")
    assert not buffer.moves("odom")


@given(poses, poses, st.floats(0.0, 1.0))
def test_pose_between_two_turns_evenly_on_the_shortest_arc(a, b, share):
    T = interpolate(a, b, share)
    whole = rotation_angle(np.linalg.inv(a) @ b)
    assert rotation_angle(np.linalg.inv(a) @ T) == pytest.approx(share * whole, abs=1e-6)
    np.testing.assert_allclose(T[:3, 3], (1 - share) * a[:3, 3] + share * b[:3, 3], atol=1e-12)


def test_interpolation_ends_at_long_gaps_and_beyond_the_ends():
    buffer, ahead = TransformBuffer(), np.eye(4)
    ahead[0, 3] = 1.0
    buffer.add("map", "base", 0, np.eye(4))
    buffer.add("map", "base", NANO // 2, ahead)
    buffer.add("map", "base", 4 * NANO, ahead)
    assert buffer.lookup("map", "base", NANO // 4)[0, 3] == pytest.approx(0.5)
    assert buffer.lookup("map", "base", -NANO // 50)[0, 3] == 0.0
    for stamp in (-NANO, 2 * NANO, 6 * NANO):
        with pytest.raises(InvalidPoseError, match="within"):
            buffer.lookup("map", "base", stamp)


def test_history_is_bounded_and_order_of_arrival_does_not_matter():
    buffer, T = TransformBuffer(keep=1.0), np.eye(4)
    for stamp in [*range(0, 5 * NANO, NANO // 10)]:
        buffer.add("map", "base", stamp, T)
    assert len(buffer.stamps("base")) <= 11
    shuffled = TransformBuffer()
    for i in (3, 1, 2, 0):
        T = np.eye(4)
        T[0, 3] = i
        shuffled.add("map", "base", i * NANO // 10, T)
    assert shuffled.lookup("map", "base", NANO // 4)[0, 3] == pytest.approx(2.5)


def test_trees_of_strangers_cannot_hang_the_lookup():
    buffer = TransformBuffer()
    buffer.add("a", "b", 0, np.eye(4))
    buffer.add("b", "a", 0, np.eye(4))
    with pytest.raises(InvalidPoseError, match="loop"):
        buffer.lookup("a", "c", 0)
    with pytest.raises(InvalidPoseError, match="different names"):
        buffer.add("a", "a", 0, np.eye(4))
    other = TransformBuffer()
    other.add("odom", "base", 0, np.eye(4))
    with pytest.raises(InvalidPoseError, match=r"no chain.*T_base_camera"):
        other.lookup("odom", "cam", 0)


# Synchronisation


def matched(slop, rows):
    sets = []
    sync = ApproximateTimeSynchronizer(("image", "depth", "info"), slop, sets.append)
    for topic, milliseconds in rows:
        sync.add(topic, milliseconds * 1_000_000, (topic, milliseconds))
    return [tuple(found[t][1] for t in ("image", "depth", "info")) for found in sets], sync


@given(st.integers(0, 20), st.permutations(["image", "depth", "info"]))
def test_stamps_within_the_slop_match_in_any_order_of_arrival(late, order):
    shift = {"image": 0, "depth": late, "info": 1}
    rows = [(topic, 100 * i + shift[topic]) for i in range(20) for topic in order]
    sets, sync = matched(0.03, rows)
    assert sets == [(100 * i, 100 * i + late, 100 * i + 1) for i in range(20)]
    assert sync.missing() is None


def test_stamps_too_far_apart_are_said_with_their_distance():
    sets, sync = matched(
        0.03, [(t, 100 * i + 50 * (t == "depth")) for i in range(30) for t in ("image", "depth", "info")]
    )
    assert sets == []
    assert "image and depth are at least 50 ms apart and 30 ms" in sync.missing()
    for heard, rest in (("image", "depth, info"), ("depth", "image, info"), ("info", "image, depth")):
        _, silent = matched(0.03, [(heard, 100 * i) for i in range(30)])
        assert f"nothing arrives on {rest}" in silent.missing()


def test_a_bag_that_is_played_again_matches_again():
    rows = [(t, 100 * i) for i in range(5) for t in ("image", "depth", "info")]
    assert len(matched(0.03, rows + rows)[0]) == 10


# Rectification


def info(D, model="plumb_bob", size=(48, 64), focal=40.0, **changes):
    height, width = size
    K = np.array([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1.0]])
    roi = SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0)
    P = np.hstack([K, np.zeros((3, 1))])
    made = {"height": height, "width": width, "d": D, "k": K.ravel(), "r": np.eye(3).ravel(), "p": P.ravel()}
    return SimpleNamespace(**{**made, "distortion_model": model, "binning_x": 0, "binning_y": 0, "roi": roi, **changes})


LENSES = [
    ("plumb_bob", [-0.2, 0.05, 0.002, -0.001, 0.01]),
    ("rational_polynomial", [0.2, 0.01, 0.001, 0.0, 0.0, 0.3, 0.02, 0.0]),
    ("equidistant", [0.05, -0.01, 0.002, 0.0]),
    ("fisheye", [-0.03, 0.01, 0.0, 0.0]),
]


def reference_distort(x, y, D, model):
    """One point by the formulas of OpenCV's calibration, term by term."""
    if model in ("equidistant", "fisheye"):
        r = math.hypot(x, y)
        theta = math.atan(r)
        bent = theta + sum(k * theta ** (2 * n + 3) for n, k in enumerate(D))
        return x * bent / r, y * bent / r
    k1, k2, p1, p2, k3, k4, k5, k6 = [*D, *[0.0] * (8 - len(D))]
    r2 = x**2 + y**2
    scale = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), y * scale + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y


@pytest.mark.parametrize(("model", "D"), LENSES)
@given(x=st.floats(0.05, 0.9), y=st.floats(-0.9, 0.9))
def test_lenses_bend_rays_as_opencv_has_it(model, D, x, y):
    found = distort(np.array([x]), np.array([y]), np.array(D), model)
    np.testing.assert_allclose(np.ravel(found), reference_distort(x, y, D, model), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("model", "D"), LENSES)
def test_rectified_pixels_show_what_their_ray_hits(model, D):
    """A smooth pattern on a plane, seen through the lens, comes back as the pinhole camera sees it."""
    message = info(D, model)
    rectifier = rectifier_from_info(message)
    K = rectifier.camera.K_image

    def pattern(x, y):
        return 127.5 + 60 * np.sin(3 * x) + 60 * np.cos(4 * y)

    v, u = np.meshgrid(np.arange(48) + 0.5, np.arange(64) + 0.5, indexing="ij")
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    ideal = pattern(x, y)
    a, b = x.copy(), y.copy()
    for _ in range(100):  # the ray of a raw pixel, by fixed-point iteration
        da, db = distort(a, b, np.array(D), model)
        a, b = a - 0.5 * (da - x), b - 0.5 * (db - y)
    raw = np.repeat(pattern(a, b)[..., None], 3, axis=2).round().astype(np.uint8)
    found = rectifier.image(raw)[..., 0].astype(float)
    depth = rectifier.depth(pattern(a, b).astype(np.float32))
    inside = np.isfinite(depth)
    assert inside.mean() > 0.5
    assert np.abs(found - ideal)[inside].max() < 6.0
    assert np.abs(depth - ideal)[inside].max() < 10.0


def test_negligible_distortion_leaves_the_image_alone():
    rectifier = rectifier_from_info(info([1e-9, 0, 0, 0, 0]))
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert rectifier.image(image) is image


def test_rectified_images_keep_their_pixels_and_take_p():
    message = info([-0.2, 0.05, 0, 0, 0])
    message.p[0] = message.p[5] = 33.0
    image = np.zeros((48, 64, 3), np.uint8)
    rectifier = rectifier_from_info(message, rectified=True)
    assert rectifier.image(image) is image
    assert rectifier.camera.K_image[0, 0] == 33.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"distortion_model": "omnidirectional"}, "omnidirectional.*rectified"),
        ({"d": [0.1] * 14, "distortion_model": "rational_polynomial"}, "14 coefficients"),
        ({"d": [math.nan] * 5}, "D of a CameraInfo"),
        ({"binning_x": 2}, "binning"),
    ],
)
def test_lenses_that_are_not_known_are_refused_by_name(changes, says):
    with pytest.raises(InvalidCameraError, match=says):
        rectifier_from_info(
            info(**{"D": [0.1] * 5, **changes} if "d" not in changes else {"D": changes["d"], **changes})
        )


# Mount


@given(st.floats(0.1, 2.0), st.floats(-1.2, 1.2), numbers, numbers, st.floats(-3.1, 3.1))
def test_base_of_a_camera_is_level_on_the_floor_below_it(height, tilt, x, y, heading):
    T_map_base = pose_from_rotation_vector([x, y, 0.0], [0.0, 0.0, heading])
    T_world_cam = CameraMount.looking(height, tilt).camera(T_map_base)
    mount = CameraMount.above_floor(T_world_cam)
    np.testing.assert_allclose(mount.base(T_world_cam), T_map_base, atol=1e-9)
    assert mount.height == pytest.approx(height)
    np.testing.assert_allclose(map_from_world(world_from_map(T_world_cam)), T_world_cam, atol=1e-12)


@given(poses, st.floats(0.1, 2.0), st.floats(-1.2, 1.2))
def test_goals_of_a_planar_body_keep_height_and_tilt_of_the_camera(goal, height, tilt):
    mount = CameraMount.looking(height, tilt)
    T_map_cam = map_from_world(mount.camera(goal))
    assert T_map_cam[2, 3] == pytest.approx(height)
    assert math.asin(np.clip(-T_map_cam[2, 2], -1, 1)) == pytest.approx(tilt, abs=1e-9)
    np.testing.assert_allclose(T_map_cam[:2, 3], goal[:2, 3], atol=1e-9)
    free = CameraMount(mount.T_base_optical, planar=False)
    np.testing.assert_allclose(free.base(free.camera(goal)), goal, atol=1e-9)


@given(poses)
def test_level_keeps_the_heading(T):
    flat = level(T)
    np.testing.assert_allclose(flat[2], [0, 0, 1, T[2, 3]], atol=1e-12)
    if np.hypot(*T[:2, 0]) > 0.01:
        assert math.atan2(flat[1, 0], flat[0, 0]) == pytest.approx(math.atan2(T[1, 0], T[0, 0]), abs=1e-9)
