"""Behind things: the surface beside a thing goes on there, at its depth, and is looked up on its mirror image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_env.memory.behind import FARTHEST, ONE_SURFACE, behind

WIDTH = 24


def row(wall, thing, first, last):
    """One row of a wall with a thing before it in columns first to last, which is 0 where it moves."""
    depth = np.array(wall, np.float64)
    depth[first : last + 1] = thing
    return depth[None]


@settings(max_examples=50, deadline=None)
@given(
    first=st.integers(1, 12),
    size=st.integers(1, 8),
    thing=st.sampled_from([0.0, 1.0]),
    slope=st.floats(-0.004, 0.004),
)
def test_a_wall_goes_on_behind_a_thing_as_the_plane_it_is(first, size, thing, slope):
    wall, last = 1.0 / (0.25 + slope * np.arange(WIDTH)), first + size - 1
    columns, metres = behind(row(wall, thing, first, last))
    there = np.arange(first, last + 1)
    assert np.allclose(metres[0, there], wall[there])
    outside = np.setdiff1d(np.arange(WIDTH), there)
    assert not metres[0, outside].any()
    assert np.array_equal(columns[0, outside], outside)
    # The same distance from the nearer outline, on its other side; within the picture, and not within the thing.
    nearer_left = there - first <= last - there
    mirrored = np.where(nearer_left, 2 * first - 1 - there, 2 * last + 1 - there)
    assert np.array_equal(columns[0, there], mirrored.clip(0, WIDTH - 1))


@pytest.mark.parametrize("side", [0, 1])
def test_at_the_border_of_the_picture_the_surface_goes_on_so_far_at_the_depth_it_has(side):
    depth = row(np.full(WIDTH, 4.0), 0.0, 0, WIDTH - 7)
    turn = -1 if side else 1
    columns, metres = (found[0, ::turn] for found in behind(depth[:, ::turn]))
    there = metres > 0
    assert np.flatnonzero(there).tolist() == list(range(WIDTH - 6 - FARTHEST, WIDTH - 6))
    assert (metres[there] == 4.0).all()
    assert not there[: WIDTH - 6 - FARTHEST].any()
    at = columns if not side else WIDTH - 1 - columns
    assert (at[there] > WIDTH - 7).all()


def test_of_two_surfaces_the_nearer_outline_decides():
    depth = np.array([[4.0] * 4 + [1.0] * 4 + [4.0 * ONE_SURFACE + 0.1] * 4])
    assert behind(depth)[1][0, 4:8].tolist() == [4.0, 4.0, depth[0, -1], depth[0, -1]]


def test_another_thing_is_not_mirrored_behind_a_thing():
    depth = np.array([[4.0, 1.0, 1.0, 4.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0]])
    columns, _ = behind(depth)
    assert depth[0, columns[0, 4:8]].tolist() == [4.0] * 4


def test_nothing_goes_on_where_nothing_is_hidden_or_known():
    for depth in (np.full((3, 5), 2.0), np.zeros((3, 5)), np.linspace(2.0, 3.0, 5)[None], np.array([[3.0]])):
        columns, metres = behind(depth)
        assert not metres.any()
        assert (columns == np.arange(depth.shape[1])).all()
