"""Metres out of relative inverse depth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.models.geometry.inverse_depth import InverseFit, default_fit, fit_views

GRID = (12, 20)
MIN_CELLS = 32


def a_view(rng: np.random.Generator, scale: float = 0.4, shift: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and the metres that it stands for."""
    prediction = rng.uniform(0.05, 2.0, GRID)
    return prediction, 1.0 / (scale * prediction + shift)


@given(st.floats(1e-3, 1e3), st.floats(0.0, 10.0), st.integers(0, 99))
def test_scale_and_shift_are_found_wherever_they_are(scale, shift, seed):
    prediction, metres = a_view(np.random.default_rng(seed), scale, shift)
    (fit,) = fit_views(prediction[None], metres[None], MIN_CELLS)
    np.testing.assert_allclose(1.0 / (fit.scale * prediction + fit.shift), metres, rtol=1e-6)


@pytest.mark.parametrize("wrong", [0.1, 0.25, 0.4])
def test_cells_that_are_wrong_in_any_way_do_not_matter(wrong, rng):
    prediction, metres = a_view(rng)
    known = metres * np.exp(0.01 * rng.standard_normal(GRID))
    bad = rng.random(GRID) < wrong
    known[bad] = rng.uniform(0.2, 40.0, bad.sum())
    (fit,) = fit_views(prediction[None], known[None], MIN_CELLS)
    error = np.abs((fit.scale * prediction + fit.shift) * metres - 1.0)
    assert error.max() < 0.02


def test_unknown_and_broken_cells_are_left_out(rng):
    prediction, metres = a_view(rng)
    known = np.where(rng.random(GRID) < 0.5, metres, 0.0)
    known[0, :3] = np.inf, np.nan, -1.0
    prediction[1, :2] = np.nan, np.inf
    (fit,) = fit_views(prediction[None], known[None], MIN_CELLS)
    assert fit.scale == pytest.approx(0.4)
    assert fit.shift == pytest.approx(0.1)


def test_every_view_has_a_fit_of_its_own(rng):
    views = [a_view(rng, 0.4, 0.1), a_view(rng, 3.0, 0.02)]
    fits = fit_views(np.stack([v[0] for v in views]), np.stack([v[1] for v in views]), MIN_CELLS)
    assert [fit.scale for fit in fits] == pytest.approx([0.4, 3.0])


def test_a_view_with_too_few_cells_takes_the_fit_of_all(rng):
    prediction, metres = a_view(rng)
    few = np.zeros(GRID)
    few.flat[: MIN_CELLS - 1] = metres.flat[: MIN_CELLS - 1]
    fits = fit_views(np.stack([prediction] * 2), np.stack([metres, few]), MIN_CELLS)
    assert fits[1].scale == pytest.approx(0.4)
    assert fit_views(prediction[None], few[None], MIN_CELLS) == [None]


def test_no_fit_makes_nearer_farther(rng):
    prediction, metres = a_view(rng)
    assert fit_views(-prediction[None], metres[None], MIN_CELLS) == [None]


def test_a_wall_fixes_the_scale_only(rng):
    prediction = rng.normal(1.5, 0.01, GRID)
    (fit,) = fit_views(prediction[None], np.full((1, *GRID), 4.0), MIN_CELLS)
    assert fit.shift == 0.0
    assert fit.scale * 1.5 == pytest.approx(0.25, rel=0.01)
    assert fit_views(-prediction[None], np.full((1, *GRID), 4.0), MIN_CELLS) == [None]


def test_the_default_puts_the_median_at_the_start_depth_and_the_farthest_at_far(rng):
    prediction = rng.uniform(0.3, 9.0, GRID)
    fit = default_fit(prediction, start_depth=3.0, far=50.0)
    metres = 1.0 / (fit.scale * prediction + fit.shift)
    assert np.median(metres) == pytest.approx(3.0, rel=0.02)
    assert (fit.scale * np.quantile(prediction, 0.02) + fit.shift) == pytest.approx(1.0 / 50.0)


def test_the_default_of_a_flat_prediction_is_a_wall():
    assert default_fit(np.full(GRID, 0.7), start_depth=2.0, far=50.0) == InverseFit(0.0, 0.5)
