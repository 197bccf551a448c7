"""Seeds and options of `reset`: what is taken, and what is refused with a clear error."""

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from task_worlds import equal, mirage, rooms, rooms_made_once  # noqa: F401

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, InvalidPoseError, MirageError
from mirage_env.spaces.reset_options import as_camera, check_options, check_seed


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers_of_any_kind_are_seeds(seed):
    assert check_seed(seed) == 3
    assert type(check_seed(seed)) is int
    env = rooms()
    assert equal(env.reset(seed=seed), env.reset(seed=3))


@pytest.mark.parametrize("seed", [-1, np.int64(-1), 3.0, "3", np.array([3]), [3]])
def test_other_seeds_are_refused(seed):
    with pytest.raises(InvalidOptionError, match=r"the seed is .*give a whole number from 0"):
        rooms().reset(seed=seed)


def test_no_seed_is_none():
    assert check_seed(None) is None


@pytest.mark.parametrize("options", [[1], "image", 3, ("image",)])
def test_options_that_are_no_dictionary_are_refused(options):
    with pytest.raises(InvalidOptionError, match=r"options is .*give a dictionary"):
        rooms().reset(options=options)


def test_options_are_copied_and_unknown_ones_named_with_the_valid_ones():
    options = {"a": 1}
    copied = check_options(options, ["a", "b"])
    assert (copied, copied is not options) == (options, True)
    assert check_options(None, ["a"]) == {}
    with pytest.raises(InvalidOptionError, match=r"unknown reset options \['c', 'd'\]; valid ones are \['a'\]"):
        check_options({"d": 1, "a": 2, "c": 3}, ["a"])


@pytest.mark.parametrize("world", [mirage, rooms])
@pytest.mark.parametrize("seed", [None, 5])
def test_generator_is_as_it_was_after_a_reset_that_failed_late(world, seed):
    """The world is drawn before the goal is found to lie beyond it."""
    env, same = world("point_nav"), world("point_nav")
    env.reset(seed=0)
    same.reset(seed=0)
    before = env.get_state()
    with pytest.raises(InvalidOptionError, match="the goal is at"):
        env.reset(seed=seed, options={"goal": [1e9, 0.0, 0.0]})
    assert env.get_state().world is before.world
    assert env.np_random_seed == 0
    assert equal(env.reset(), same.reset())


def test_generator_of_an_environment_that_never_was_reset_survives_a_failed_reset():
    env = rooms("point_nav")
    env.np_random = np.random.default_rng(3)
    with pytest.raises(MirageError):
        env.reset(options={"goal": [1e9, 0.0, 0.0]})
    assert env.np_random.random() == np.random.default_rng(3).random()
    with pytest.raises(ResetNeeded):
        env.get_state()


def test_camera_is_a_camera_a_matrix_or_a_vector():
    default = Camera.from_fov(1.0, 8, 16)
    moved = default.at(np.array([[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]]))
    for value in (moved, moved.T_world_cam, moved.T_world_cam.tolist(), moved.as_vector()):
        camera = as_camera(value, default)
        np.testing.assert_allclose(camera.T_world_cam, moved.T_world_cam)
        np.testing.assert_array_equal(camera.K_image, default.K_image)
    for value in ("here", [1.0, 2.0], np.zeros((4, 4)), [[1.0], [1.0, 2.0]]):
        with pytest.raises(InvalidPoseError):
            as_camera(value, default)
