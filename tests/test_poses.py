"""SE(3): the exponential map and what follows from it, in NumPy and torch, for any number of motions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rigid_motions import motions

from mirage_env.errors import InvalidPoseError
from mirage_env.poses import (
    exp,
    gaps,
    interpolate,
    inverse,
    log,
    pose_from_rotation_vector,
    pose_from_vector,
    quaternion_from_rotation,
    rigid,
    rotation_angle,
    rotation_from_quaternion,
    rotation_from_vector,
    screw,
    vector_from_pose,
    vector_from_rotation,
)

ROUNDING = 1e-7
"""Metres and matrix entries; positions reach 10 m here."""
KINDS = {"numpy": np.float64, "torch64": torch.float64, "torch32": torch.float32}
EXACT = {"numpy": 1e-12, "torch64": 1e-12, "torch32": 3e-5}
kinds = pytest.mark.parametrize("kind", KINDS)
shapes = pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (2, 3), (2, 1, 4)])
ANGLES = (
    0.0,
    1e-300,
    1e-12,
    1e-6,
    1e-3,
    0.0999,
    0.1001,
    1.0,
    math.pi / 2,
    3.0,
    math.pi - 1e-3,
    math.pi - 1e-7,
    math.pi,
)
angles = pytest.mark.parametrize("angle", ANGLES)


def given_as(kind, values):
    """Values as an array of that library and type."""
    return np.asarray(values, np.float64) if kind == "numpy" else torch.tensor(np.asarray(values), dtype=KINDS[kind])


def twists(shape, angle=None, seed=0):
    """Twists [..., 6] in random directions, of random angles below half a turn or of one angle."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=(*shape, 3))
    size = rng.uniform(0.0, 3.1, (*shape, 1)) if angle is None else angle
    velocity = rng.normal(size=(*shape, 3))
    return np.concatenate([velocity, size * axis / np.linalg.norm(axis, axis=-1, keepdims=True)], -1)


def matrix_exponential(twist):
    """The motion of one twist, from the general exponential of a 4 x 4 matrix."""
    (x, y, z), generator = twist[3:], np.zeros((4, 4))
    generator[:3, :3] = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]
    generator[:3, 3] = twist[:3]
    return torch.linalg.matrix_exp(torch.tensor(generator)).numpy()


def close(kind, a, b):
    np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), atol=EXACT[kind])


# Exponential map and logarithm


@kinds
@angles
def test_exp_is_the_matrix_exponential(kind, angle):
    given = twists((7,), angle)
    close(kind, exp(given_as(kind, given)), [matrix_exponential(twist) for twist in given])


@kinds
@shapes
def test_log_undoes_exp(kind, shape):
    given = given_as(kind, twists(shape))
    T = exp(given)
    assert (tuple(T.shape), T.dtype) == ((*shape, 4, 4), KINDS[kind])
    assert (tuple(log(T).shape), log(T).dtype) == ((*shape, 6), KINDS[kind])
    close(kind, log(T), given)


@kinds
@angles
def test_exp_undoes_log_for_tiny_angles_and_half_turns_alike(kind, angle):
    T = exp(given_as(kind, twists((9,), angle)))
    close(kind, exp(log(T)), T)
    assert float(np.linalg.norm(np.asarray(log(T))[..., 3:], axis=-1).max()) <= math.pi + 1e-6


@pytest.mark.parametrize("angle", [1e-300, 1e-12, 1e-6, 1e-3, 1.0, math.pi - 1e-7])
def test_log_keeps_the_relative_size_of_tiny_rotations(angle):
    given = twists((9,), angle)
    np.testing.assert_allclose(log(exp(given)), given, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize("axis", [*np.eye(3), [0.6, -0.8, 0.0], [0.0, 0.0, -1.0], np.ones(3) / math.sqrt(3.0)])
def test_half_turns_about_any_axis_have_a_logarithm(axis):
    T = pose_from_rotation_vector([1.0, 2.0, 3.0], math.pi * np.asarray(axis))
    twist = log(T)
    assert np.linalg.norm(twist[3:]) == pytest.approx(math.pi)
    assert abs(twist[3:] @ axis) == pytest.approx(math.pi)
    np.testing.assert_allclose(exp(twist), T, atol=1e-12)


@kinds
def test_every_motion_of_a_batch_is_what_it_is_alone(kind):
    given = given_as(kind, twists((4, 3)))
    T = exp(given)
    for i in range(4):
        for j in range(3):
            close(kind, exp(given[i, j]), T[i, j])
            close(kind, log(T[i, j]), log(T)[i, j])
            close(kind, inverse(T[i, j]), inverse(T)[i, j])
            close(kind, vector_from_pose(T[i, j]), vector_from_pose(T)[i, j])


@angles
def test_gradients_are_finite_and_true(angle):
    twist = torch.tensor(twists((2,), min(angle, 3.0)), requires_grad=True)
    assert torch.autograd.gradcheck(exp, (twist,), atol=1e-4)
    (slope,) = torch.autograd.grad(exp(twist).pow(2).sum(), twist)
    assert slope.isfinite().all()


# Constant screws


@given(motions(), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_screw_is_a_one_parameter_group(T, s, t):
    np.testing.assert_allclose(screw(T, 0.0), np.eye(4), atol=ROUNDING)
    np.testing.assert_allclose(screw(T, 1.0), T, atol=ROUNDING)
    np.testing.assert_allclose(screw(T, s + t), screw(T, s) @ screw(T, t), atol=ROUNDING)


def test_screw_of_half_a_turn():
    T = pose_from_rotation_vector([2.0, 1.0, 0.0], [0.0, 0.0, math.pi])
    half = screw(T, 0.5)
    assert rotation_angle(half) == pytest.approx(math.pi / 2)
    np.testing.assert_allclose(half @ half, T, atol=ROUNDING)


def test_screw_of_a_translation_is_a_straight_line():
    T = pose_from_rotation_vector([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    np.testing.assert_allclose(screw(T, 0.25)[:3, 3], [0.25, 0.5, 0.75])


@kinds
@shapes
def test_many_screws_at_many_fractions_are_each_their_own(kind, shape):
    T = exp(given_as(kind, twists(shape)))
    fraction = given_as(kind, np.random.default_rng(1).uniform(-1.0, 1.0, shape))
    close(kind, screw(T, fraction) @ screw(T, 1.0 - fraction), T)
    close(kind, screw(T, -1.0), inverse(T))


@kinds
def test_interpolation_starts_and_ends_where_it_should_and_keeps_its_speed(kind):
    start, end = exp(given_as(kind, twists((3,)))), exp(given_as(kind, twists((3,), seed=1)))
    quarter, half = interpolate(start, end, 0.25), interpolate(start, end, 0.5)
    close(kind, interpolate(start, end, 0.0), start)
    close(kind, interpolate(start, end, 1.0), end)
    close(kind, inverse(start) @ quarter, inverse(quarter) @ half)


def test_one_pair_of_poses_is_interpolated_at_many_fractions():
    start, end = exp(twists((2,)))
    path = interpolate(start, end, np.array([0.0, 0.5, 1.0]))
    assert path.shape == (3, 4, 4)
    np.testing.assert_allclose(path[[0, 2]], [start, end], atol=1e-12)


# Conversions


@kinds
@angles
def test_rotation_vectors_and_matrices_are_each_others_inverse(kind, angle):
    vectors = given_as(kind, twists((9,), angle)[:, 3:])
    R = rotation_from_vector(vectors)
    close(kind, R @ R.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (9, 3, 3)))
    close(kind, rotation_from_vector(vector_from_rotation(R)), R)
    if angle < 3.0:
        close(kind, vector_from_rotation(R), vectors)


@kinds
@shapes
def test_quaternions_and_matrices_are_each_others_inverse_up_to_sign(kind, shape):
    wxyz = np.random.default_rng(2).normal(size=(*shape, 4))
    wxyz /= np.linalg.norm(wxyz, axis=-1, keepdims=True)
    found = quaternion_from_rotation(rotation_from_quaternion(given_as(kind, wxyz)))
    close(kind, found, np.where(wxyz[..., :1] < 0.0, -wxyz, wxyz))


@pytest.mark.parametrize("wxyz", [*np.eye(4), [0, 0.6, 0.8, 0], [0, -0.5, 0.5, 2**-0.5], [0.5, -0.5, -0.5, 0.5]])
def test_quaternions_of_half_turns_and_equal_parts_are_found(wxyz):
    R = rotation_from_quaternion(np.array(wxyz, float))
    np.testing.assert_allclose(rotation_from_quaternion(quaternion_from_rotation(R)), R, atol=1e-12)


@kinds
@pytest.mark.parametrize("size", [6, 7])
def test_pose_vectors_of_either_size_round_trip(kind, size):
    T = exp(given_as(kind, twists((2, 4))))
    vector = vector_from_pose(T, size)
    assert tuple(vector.shape) == (2, 4, size)
    close(kind, pose_from_vector(vector), T)


@given(motions())
def test_inverse_undoes_a_motion(T):
    np.testing.assert_allclose(inverse(T) @ T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(T @ inverse(T), np.eye(4), atol=1e-12)


@given(motions())
def test_pose_vector_round_trip(T):
    np.testing.assert_allclose(pose_from_vector(vector_from_pose(T)), T, atol=ROUNDING)


def test_pose_vector_is_position_and_wxyz():
    quarter_turn_about_y = [1.0, 2.0, 3.0, math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0]
    np.testing.assert_allclose(pose_from_vector(quarter_turn_about_y) @ [0, 0, 1, 1], [2, 2, 3, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        ([0, 0, 0, 1, 0], "7 finite numbers"),
        ([0, 0, math.nan, 1, 0, 0, 0], "7 finite numbers"),
        ([0, 0, 0, 2, 0, 0, 0], "unit quaternion"),
        ([0, 0, 0, 0, 0, 0, 0], "unit quaternion"),
    ],
)
def test_bad_pose_vector_is_refused(vector, says):
    with pytest.raises(InvalidPoseError, match=says):
        pose_from_vector(vector)


def _changed(row: int, col: int, value: float) -> np.ndarray:
    T = np.eye(4)
    T[row, col] = value
    return T


@pytest.mark.parametrize(
    ("T", "says"),
    [
        (np.eye(3), "4 x 4"),
        (np.eye(4)[None], "4 x 4"),
        (np.diag([1.1, 1.1, 1.1, 1.0]), "scale"),
        (_changed(0, 1, 0.1), "shear"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "mirror"),
        (np.zeros((4, 4)) + np.diag([0.0, 0.0, 0.0, 1.0]), "no rotation"),
        (_changed(0, 3, np.nan), "NaN"),
        (_changed(1, 1, np.inf), "NaN or infinite"),
        (_changed(3, 0, 1.0), "last row"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
    ],
)
def test_what_is_no_rigid_motion_is_refused(T, says):
    with pytest.raises(InvalidPoseError, match=says):
        rigid(T)


@given(motions())
def test_rigid_removes_the_rounding_of_single_precision(T):
    R = rigid(T.astype(np.float32))[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(R, T[:3, :3], atol=1e-6)


def test_a_bad_vector_in_a_batch_is_refused():
    vectors = vector_from_pose(exp(twists((3,))))
    vectors[1, 3:] *= 2.0
    with pytest.raises(InvalidPoseError, match="unit quaternion"):
        pose_from_vector(vectors)


@given(motions())
def test_the_angle_of_a_motion_is_the_length_of_its_rotation_vector(T):
    angle = rotation_angle(T)
    assert angle == pytest.approx(float(np.linalg.norm(log(T)[3:])), abs=1e-12)
    assert 0.0 <= angle <= math.pi + 1e-12


def test_gaps_are_metres_plus_radians():
    first, second = (exp(twists((n,), seed=n)) for n in (5, 3))
    found = gaps(first, second)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            metres = float(np.linalg.norm(a[:3, 3] - b[:3, 3]))
            assert found[i, j] == pytest.approx(metres + rotation_angle(inverse(a) @ b), abs=1e-6)
    assert np.allclose(np.diag(gaps(first, first)), 0.0, atol=1e-6)
