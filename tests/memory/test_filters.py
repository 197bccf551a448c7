"""Which cells may be remembered."""

import numpy as np
import pytest
import reference
import torch

from mirage_env.config.world import FilterConfig
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.memory.filters import keep_cells, labelled

GRID = (4, 4)
NEAR, FAR = 0.1, 50.0


def keep(depth, labels=None, config=FilterConfig(), far=FAR) -> np.ndarray:  # noqa: B008 - frozen
    labels = np.zeros((32, 32), int) if labels is None else labels
    tensors = torch.as_tensor(depth, dtype=torch.float32)[None], torch.as_tensor(labels)[None]
    return keep_cells(*tensors, GRID, config, NEAR, far)[0].numpy()


def room(rng) -> np.ndarray:
    """A smooth wall with a box before it, some holes and broken values."""
    depth = 3.0 + 0.02 * np.arange(32) * np.ones((32, 1))
    row, col = rng.integers(0, 24, 2)
    depth[row : row + 6, col : col + 9] = rng.uniform(1.0, 2.9)
    for value in (np.nan, np.inf, -np.inf, 0.0, -1.0, NEAR, FAR):
        depth[tuple(rng.integers(0, 32, 2))] = value
    return depth.astype(np.float32)


@pytest.mark.parametrize(
    "config",
    [FilterConfig(), FilterConfig(edge_share=0.3, dynamic_share=0.5), FilterConfig(edge_share=1.0, edge_jump=0.5)],
)
def test_kept_cells_equal_the_reference(config, rng):
    kept = 0
    for _ in range(15):
        depth, labels = room(rng), np.full((32, 32), STATIC)
        for label in (MOVER, SKY):
            row, col = rng.integers(0, 28, 2)
            labels[row : row + rng.integers(1, 9), col : col + rng.integers(1, 9)] = label
        found = keep(depth, labels, config)
        np.testing.assert_array_equal(found, reference.keep_cells(depth, labels, GRID, config, NEAR, FAR))
        kept += found.sum()
    assert 0 < kept < 15 * 16


def test_a_plain_static_wall_is_kept_whole():
    assert keep(np.full((32, 32), 3.0)).all()


@pytest.mark.parametrize("value", [np.nan, -np.inf, -2.0, NEAR, FAR, 1e9])
def test_one_pixel_of_invalid_depth_drops_its_cell(value):
    depth = np.full((32, 32), 3.0)
    depth[12, 21] = value
    kept = keep(depth, config=FilterConfig(edge_share=1.0))
    assert not kept[1, 2]
    assert kept.sum() == 15


@pytest.mark.parametrize("nothing", [0.0, np.inf])
@pytest.mark.parametrize(("pixels", "is_kept"), [(1, True), (32, True), (33, False), (64, False)])
def test_pixels_without_a_surface_drop_a_cell_where_they_are_most_of_it_and_holes_make_no_edge(
    pixels, is_kept, nothing
):
    depth = np.full((32, 32), 3.0)
    for i in range(pixels):
        depth[8 + i // 8, 16 + i % 8] = nothing  # in cell (1, 2)
    kept = keep(depth, config=FilterConfig(edge_share=1.0) if nothing else FilterConfig())
    assert kept[1, 2] == is_kept
    assert kept.sum() == 15 + is_kept
    assert (keep(depth).sum() == kept.sum()) == (nothing == 0.0)  # where a surface ends is an edge


@pytest.mark.parametrize("label", [MOVER, SKY])
@pytest.mark.parametrize(("pixels", "is_kept"), [(9, True), (10, False), (64, False)])
def test_movers_and_sky_drop_a_cell_from_their_share_on(label, pixels, is_kept):
    labels = np.full((32, 32), STATIC)
    for i in range(pixels):
        labels[8 + i // 8, 16 + i % 8] = label  # in cell (1, 2)
    kept = keep(np.full((32, 32), 3.0), labels)  # 9 of 64 pixels are 14 %, 10 are 16 %; the limit is 15 %
    assert kept[1, 2] == is_kept
    assert kept.sum() == 15 + is_kept


def test_an_occlusion_edge_drops_the_cells_on_both_sides():
    depth = np.full((32, 32), 5.0)
    depth[:, :16] = 2.0
    np.testing.assert_array_equal(keep(depth), np.tile([True, False, False, True], (4, 1)))


def test_edge_share_of_one_keeps_edge_cells():
    depth = np.full((32, 32), 5.0)
    depth[:, :20] = 2.0
    assert keep(depth, config=FilterConfig(edge_share=1.0)).all()


def test_views_are_filtered_one_by_one(rng):
    depth = torch.from_numpy(np.stack([room(rng) for _ in range(3)]))
    labels = torch.zeros(3, 32, 32, dtype=torch.int64)
    together = keep_cells(depth, labels, GRID, FilterConfig(), NEAR, FAR)
    for t in range(3):
        alone = keep_cells(depth[t : t + 1], labels[t : t + 1], GRID, FilterConfig(), NEAR, FAR)[0]
        assert torch.equal(together[t], alone)


@pytest.mark.parametrize("nothing", [0.0, np.inf, 1000.0])
def test_sky_that_is_remembered_is_kept_whatever_a_depth_camera_says_of_it(nothing):
    depth, labels = np.full((16, 32), 2.0), np.full((16, 32), STATIC)
    labels[:8], depth[:8] = SKY, nothing
    views, config = [torch.from_numpy(x[None]) for x in (depth, labels)], FilterConfig(edge_share=1.0)
    kept = [keep_cells(*views, (2, 4), config, NEAR, FAR, sky) for sky in (True, False)]
    assert kept[0].all()
    assert kept[1].tolist() == [[[False] * 4, [True] * 4]]


class Coarse:
    """Labels of squares of four pixels, sky where most of a square is (`StaticSegmenter`)."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        return self.labels.expand(len(images), -1, -1).clone()


def test_sky_begins_where_measured_surfaces_end():
    wall_top = 13 + torch.arange(64) // 9
    wall = torch.arange(64)[:, None] >= wall_top
    depth, rough = torch.where(wall, 3.0, torch.inf)[None], torch.full((64, 64), STATIC)
    rough[: 4 * 4] = SKY  # too low at the left, too high at the right
    frames = torch.zeros(1, 3, 64, 64)
    found = labelled(Coarse(rough), frames, depth, FAR)
    assert torch.equal(found[0] == SKY, ~wall)
    assert torch.equal(labelled(Coarse(rough), frames, None, FAR)[0], rough)


@pytest.mark.parametrize("nothing", [0.0, np.nan])
def test_where_depth_was_not_measured_labels_stay_and_so_do_movers_and_what_is_far_from_the_sky(nothing):
    rough = torch.full((64, 64), STATIC)
    rough[:16], rough[16:20, 40:44] = SKY, MOVER
    frames, holes = torch.zeros(1, 3, 64, 64), torch.full((1, 64, 64), nothing)
    assert torch.equal(labelled(Coarse(rough), frames, holes, FAR)[0], rough)
    endless = torch.full((1, 64, 64), torch.inf)
    found = labelled(Coarse(rough), frames, endless, FAR)[0]
    assert (found[16:20, 40:44] == MOVER).all()
    assert (found[32:] == STATIC).all()  # a range that ends, as of a depth camera in a hall
    near = torch.full((1, 64, 64), 3.0)
    assert (labelled(Coarse(rough), frames, near, FAR)[0, :4] == SKY).all()  # glass, or a bird
