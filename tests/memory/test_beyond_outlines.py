"""Surfaces behind outlines: where they go on, how far away, and in which colours."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.memory.beyond_outlines import BENT, PURE, REACH, beyond_outlines
from mirage_env.memory.view_mesh import BLURRED

SIZE = 64
COLUMNS = torch.arange(SIZE).expand(SIZE, SIZE)
PICTURE = torch.stack([COLUMNS, COLUMNS.T, 0 * COLUMNS]).float()
"""Colours that say which pixel they are of."""


def wall_and_box(near=1.0, far=3.0, box=slice(30, SIZE)):
    depth = torch.full((SIZE, SIZE), far)
    depth[:, box] = near
    return depth


def test_a_wall_goes_on_behind_a_box_as_far_as_it_may_and_nowhere_else():
    _, metres = beyond_outlines(PICTURE, wall_and_box())
    assert (metres[:, 30 : 30 + REACH] == 3.0).all()
    assert (metres[:, 30 + REACH :] == 0.0).all()
    assert (metres[:, 29] == 3.0).all()  # where it begins
    assert (metres[:, :29] == 0.0).all()


def test_behind_the_outline_it_is_mirrored_at_pixels_that_show_nothing_else():
    picture, _ = beyond_outlines(PICTURE, wall_and_box())
    mirror = 29 - PURE
    for behind in range(30, 30 + REACH):
        assert (picture[0, :, behind] == abs(2 * mirror - behind)).all()  # and again at the border of the picture
    assert (picture[1, :, 30:] == torch.arange(SIZE)[:, None]).all()  # in its own row


@given(st.floats(0.0, 0.02), st.floats(-0.02, 0.02), st.integers(16, 36), st.integers(16, 36))
def test_a_plane_goes_on_as_that_plane(across, down, top, left):
    y, x = torch.meshgrid(*2 * [torch.arange(SIZE, dtype=torch.float64)], indexing="ij")
    inverse = 0.5 + 0.1 * (across * (x - 32) + down * (y - 32))
    depth = 1.0 / inverse
    depth[top : top + 12, left : left + 12] = 0.5
    _, metres = beyond_outlines(PICTURE, depth)
    behind = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    behind[top : top + 12, left : left + 12] = True
    assert (metres[behind] > 0.0).all()
    assert torch.allclose(1.0 / metres[behind].double(), inverse[behind], atol=2e-3)


@pytest.mark.parametrize("strip", [8, 12])
def test_a_floor_goes_on_as_a_floor_in_its_own_colours_where_a_wall_stands_at_its_other_end(strip):
    falls = 0.3 + 0.006 * (COLUMNS.T.double() - 30)  # inverse depth of a floor that comes nearer from row to row
    inverse = torch.where(COLUMNS.T < 30 - strip, falls[30 - strip, 0], falls)  # and of a wall at its far end
    inverse[30:] = 2.0  # a table hides the rest
    picture, metres = beyond_outlines(PICTURE, 1.0 / inverse)
    behind = slice(33, 30 + REACH)
    expected = falls[behind, 9:-9].clamp_max(BENT * float(falls[29 - PURE, 0]))
    assert torch.allclose(1.0 / metres[behind, 9:-9].double(), expected, rtol=0.03)
    rows = picture[1, 30 : 30 + REACH, 9:-9]
    assert (rows > 30 - strip - 5).all()
    assert (rows < 30).all()


def test_thin_things_hide_what_is_on_both_sides_of_them():
    _, metres = beyond_outlines(PICTURE, wall_and_box(box=slice(30, 34)))
    assert (metres[:, 29:35] == 3.0).all()


def test_of_three_surfaces_each_goes_on_behind_the_nearer_one_beside_it():
    depth = wall_and_box(near=2.0, far=4.0)
    depth[:, 40:] = 1.0
    _, metres = beyond_outlines(PICTURE, depth)
    assert metres[0, 35] == 4.0  # the wall, behind the box
    assert metres[0, 41] == 2.0  # the box, behind the nearest
    assert (metres[:, 30:] >= depth[:, 30:]).all()


def test_a_surface_that_comes_nearer_goes_on_until_it_would_stand_before_what_hides_it():
    inverse = (0.3 + 0.005 * COLUMNS).double()  # .45 beside the box
    inverse[:, 30:] = 0.55
    _, metres = beyond_outlines(PICTURE, 1.0 / inverse)
    there = metres[0] > 0.0
    assert there[30:33].all()
    assert not there[40:43].any()
    assert (metres[:, 30:][metres[:, 30:] > 0.0] >= 0.999 * BLURRED / 0.55).all()


def test_a_surface_that_turns_away_goes_on_at_a_finite_distance():
    inverse = (0.9 - 0.028 * COLUMNS).double()  # .09 beside the box, and below 0 behind it
    inverse[:, 30:] = 1.0
    _, metres = beyond_outlines(PICTURE, 1.0 / inverse)
    behind = metres[:, 30 : 30 + REACH]
    assert (behind > 0.0).all()
    mirror = inverse[0, 29 - PURE] if inverse[0, 29 - PURE] < BLURRED * inverse[0, 29] else inverse[0, 29]
    assert (behind <= 1.001 * BENT / mirror).all()


@pytest.mark.parametrize("strip", [1, 2, 10])
def test_a_strip_between_two_boxes_goes_on_in_no_colours_but_its_own(strip):
    depth = wall_and_box(box=slice(0, SIZE))
    depth[:, 30 : 30 + strip] = 3.0
    picture, metres = beyond_outlines(PICTURE, depth)
    there = metres[0] > 0.0
    assert there.sum() == min(strip, 2) + 2 * REACH  # from the pixel at each of its borders
    assert ((picture[0, 0, there] >= 30) & (picture[0, 0, there] < 30 + strip)).all()


def test_no_surface_goes_on_behind_what_hardly_stands_before_it_or_from_where_nothing_is_known():
    assert (beyond_outlines(PICTURE, wall_and_box(near=3.0 / (BLURRED - 0.01)))[1] == 0.0).all()
    assert (beyond_outlines(PICTURE, wall_and_box(far=0.0))[1] == 0.0).all()
    assert (beyond_outlines(PICTURE, torch.zeros(SIZE, SIZE))[1] == 0.0).all()


@given(st.integers(0, 2**31))
def test_what_goes_on_lies_behind_what_is_seen_and_near_the_depth_beside_it(seed):
    rng = np.random.default_rng(seed)
    depth = torch.from_numpy(rng.choice([0.0, 0.7, 1.0, 2.0, 2.2, 5.0], (8, 8)).repeat(8, 0).repeat(8, 1)).float()
    _, metres = beyond_outlines(PICTURE, depth)
    there = metres > 0.0
    begins = there & (metres == depth)
    assert (metres[there & ~begins] >= BLURRED * depth[there & ~begins] * 0.999).all()
    known = (0.7, 1.0, 2.0, 2.2, 5.0)
    apart = torch.stack([(metres / k - 1.0).abs() for k in known]).amin(0)
    assert (apart[there] <= BENT - 1.0 + 1e-3).all()
