"""Views are compared as a slow reference compares them."""

from __future__ import annotations

import numpy as np

from mirage_env.memory.plane_sweep import DIM, NOISE, WINDOW, GreyView


def view(seed: int, x: float = 0.0) -> GreyView:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[0, 3] = x
    grey = rng.normal(0.0, 40.0, (16, 16)).astype(np.float32)
    K = np.array([[12.0, 0.0, 8.0], [0.0, 12.0, 8.0], [0.0, 0.0, 1.0]])
    return GreyView(grey, np.full((16, 16), 3.0, np.float32), np.ones((16, 16), np.bool_), K, T)


def test_parallax_is_focal_length_times_baseline_over_depth() -> None:
    here, there = view(0), view(1, 0.5)
    rates = here.rates(there, here.in_sight_of(there))
    np.testing.assert_allclose(rates[:, 4:], 12.0 * 0.5 / 3.0, rtol=0.02)
    assert (rates[:, :2] == 0.0).all()  # out of the other view


def test_costs_are_those_of_the_definition() -> None:
    here, there = view(0), view(1, 0.25)  # moves all by one pixel, and by half a pixel where twice as far
    costs = np.zeros((1, 16, 16), np.float32)
    told = np.ones((16, 16), np.bool_)
    weights = here.add_costs(there, here.in_sight_of(there), np.array([1.0]), told, costs)
    for y, x in ((5, 5), (8, 10), (12, 7)):
        rows = slice(y - WINDOW, y + WINDOW + 1)
        a = here.grey[rows, x - WINDOW : x + WINDOW + 1].astype(np.float64)
        b = there.grey[rows, x - WINDOW - 1 : x + WINDOW].astype(np.float64)
        alike = ((a - a.mean()) * (b - b.mean())).mean() / np.sqrt((a.var() + NOISE) * (b.var() + NOISE))
        weight = a.var() / (a.var() + DIM)
        np.testing.assert_allclose(weights[y, x], weight, rtol=1e-4)
        np.testing.assert_allclose(costs[0, y, x], weight * min(1.0 - alike, 1.0), rtol=1e-3)


def test_views_that_look_alike_cost_little_only_where_depth_is_right() -> None:
    here, there = view(0), view(0, 0.25)
    there = GreyView(np.roll(here.grey, -1, 1), there.depth, there.usable, there.K, there.T_world_cam)
    costs = np.zeros((3, 16, 16), np.float32)
    here.add_costs(there, here.in_sight_of(there), np.array([0.5, 1.0, 2.0]), np.ones((16, 16), np.bool_), costs)
    inner = costs[:, 4:-4, 4:-4]
    assert inner[1].max() < 0.1 < min(inner[0].mean(), inner[2].mean())
