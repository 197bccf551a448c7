"""Depth from motion: factors of surfaces are told by parallax, and by nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import Labels
from tiny import tiny_world_model
from torch import Tensor
from torch.nn.functional import interpolate
from two_walls import SIZE, still, wall_camera, wall_views

from mirage_env.camera import Camera
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.memory.depth_from_motion import DepthFromMotion, from_motion, told_again, views_before
from mirage_env.memory.floor import Floor
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.true_views import of_view, with_views

TINY = tiny_world_model()
PLACES = (-0.6, 0.0, 0.5)
"""Metres to the right at which cameras stand."""


def missed(depth: Tensor, truth: Tensor) -> float:
    return float((depth / truth).log().abs().mean())


@pytest.mark.parametrize("factor", [0.88, 0.95, 1.06, 1.12])
def test_a_plane_of_a_wrong_scale_is_set_right(factor: float) -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras)
    found = from_motion(factor * truth, images, still(truth), cameras)
    assert missed(found, truth) < 0.2 * abs(math.log(factor))


def test_each_surface_has_its_own_factor() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, surface = wall_views(cameras, near=1.6)
    estimate = truth * torch.where(surface == 1, 1.12, 0.9)
    found = from_motion(estimate, images, still(truth), cameras)
    for which in (0, 1):
        assert missed(found[surface == which], truth[surface == which]) < 0.35 * 0.11
    for row in (found[1, SIZE // 2], truth[1, SIZE // 2]):
        assert int(((row[1:] / row[:-1]).log().abs() > 0.3).sum()) == 1  # the edge is as sharp as it was


def test_what_is_right_stays_right() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras, near=1.6)
    assert missed(from_motion(truth, images, still(truth), cameras), truth) < 0.01


def test_turns_on_the_spot_change_nothing() -> None:
    cameras = [wall_camera(0.1, yaw, pitch) for yaw, pitch in ((-0.3, 0.0), (0.0, 0.1), (0.2, -0.1))]
    truth, images, _ = wall_views(cameras)
    assert torch.equal(from_motion(1.1 * truth, images, still(truth), cameras), 1.1 * truth)


def test_one_view_tells_nothing() -> None:
    truth, images, _ = wall_views([wall_camera()])
    assert torch.equal(from_motion(1.1 * truth, images, still(truth), [wall_camera()]), 1.1 * truth)


def test_a_wall_without_texture_is_left_alone() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras, plain=True)
    assert torch.allclose(from_motion(1.1 * truth, images, still(truth), cameras), 1.1 * truth, rtol=1e-4)


@pytest.mark.parametrize("label", [MOVER, SKY])
def test_movers_and_sky_are_left_alone(label: int) -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras)
    labels = still(truth)
    labels[:, :, : SIZE // 3] = label
    found = from_motion(1.1 * truth, images, labels, cameras)
    assert torch.equal(found[labels == label], 1.1 * truth[labels == label])
    assert missed(found[labels == STATIC], truth[labels == STATIC]) < 0.03


def test_what_labels_leave_out_may_be_of_any_depth() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras)
    labels, estimate = still(truth), 1.1 * truth
    labels[:, : SIZE // 4], estimate[:, : SIZE // 4] = SKY, torch.inf
    found = from_motion(estimate, images, labels, cameras)
    assert torch.isposinf(found[labels == SKY]).all()
    assert missed(found[labels == STATIC], truth[labels == STATIC]) < 0.03


def test_the_order_of_views_does_not_matter() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras, near=1.6)
    order = [2, 0, 1]
    found = from_motion(1.1 * truth, images, still(truth), cameras)
    again = from_motion(1.1 * truth[order], images[order], still(truth), [cameras[i] for i in order])
    assert torch.allclose(again, found[order], rtol=1e-4)


@pytest.mark.parametrize("kept", [True, False])
def test_views_from_before_help(kept: bool) -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras)
    memory = LatentMemory.empty(replace(TINY.config, image_size=(SIZE, SIZE), latent_size=(12, 12)))
    memory = replace(memory, layout=replace(memory.layout, drawn=kept))
    for n in range(2):
        latents = torch.zeros(1, memory.channels, *memory.grid)
        view = (images[n : n + 1], 1.1 * truth[n : n + 1])
        memory = memory.write(latents, *view, torch.ones(1, 12, 12, dtype=torch.bool), cameras[n : n + 1], n, shifts=1)
        memory = with_views(memory, images[n : n + 1], None)
    before = views_before(memory, cameras[2:])
    assert len(before) == 2 * kept  # who keeps no pictures looks at the views of one call alone
    found = from_motion(1.1 * truth[2:], images[2:], still(truth[2:]), cameras[2:], before)
    assert missed(found, truth[2:]) < 0.02 if kept else torch.equal(found, 1.1 * truth[2:])


def test_a_memory_of_nothing_has_no_views_from_before() -> None:
    assert views_before(LatentMemory.empty(TINY.config), [wall_camera()]) == []


def test_poses_that_err_by_half_a_degree_do_not_make_depth_worse() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras, near=1.6)
    told = [wall_camera(x + 0.005 * (-1) ** n, 0.008 * (n - 1), 0.006 * (1 - n)) for n, x in enumerate(PLACES)]
    assert missed(from_motion(1.06 * truth, images, still(truth), told), truth) < math.log(1.06)


def test_poses_of_other_views_do_little_harm() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras, near=1.6)
    assert missed(from_motion(truth, images, still(truth), cameras[::-1]), truth) < 0.09


def test_nothing_is_changed_in_place() -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras)
    depth = 1.1 * truth
    kept = depth.clone()
    from_motion(depth, images, still(truth), cameras)
    assert torch.equal(depth, kept)


class Told:
    """Depth that is wrong by a factor (`DepthEstimator`)."""

    def __init__(self, depth: dict[float, Tensor]) -> None:
        self.depth = depth

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        return torch.stack([1.1 * self.depth[float(camera.position[0])] for camera in cameras])


def test_a_floor_that_is_known_is_believed_more_than_motion() -> None:
    truth, images, _ = wall_views([wall_camera(x) for x in PLACES])
    told = [wall_camera(1.1 * x) for x in PLACES]  # so motion says that all is a tenth farther away
    below = Floor((0.0, 0.0, -1.0), -3.0)
    alone = Told({float(camera.position[0]): metres for camera, metres in zip(told, truth / 1.1, strict=True)})
    memory = LatentMemory.empty(TINY.config)
    found = [DepthFromMotion(alone, still(truth), memory, f).estimate(images, told) for f in (None, below)]
    assert missed(found[0], truth) > 0.07
    assert missed(found[1], truth) < 0.01


def start_depth(memory: LatentMemory) -> Tensor:  # [H, W] of its cells
    cells = of_view(memory, 0).read([wall_camera(PLACES[0])], now=0).surface(math.inf)
    return interpolate(cells[None], (SIZE, SIZE))[0, 0]


def shown(truth: Tensor, images: Tensor, pictures: Sequence[bool], measured: bool = False) -> LatentMemory:
    """A memory of views, all a tenth too far away; the first may be measured so."""
    config = replace(TINY.config, image_size=(SIZE, SIZE), latent_size=(12, 12))
    memory = LatentMemory.empty(config)
    memory = replace(memory, layout=replace(memory.layout, drawn=True))
    for n, kept in enumerate(pictures):
        view = images[n : n + 1], 1.1 * truth[n : n + 1]
        latents, keep = torch.zeros(1, memory.channels, *memory.grid), torch.ones(1, 12, 12, dtype=torch.bool)
        memory = memory.write(latents, *view, keep, [wall_camera(PLACES[n])], n, shifts=1)
        if kept:
            memory = with_views(memory, view[0], view[1] if measured and n == 0 else None)
    return memory


class FarAway:
    """A block that nobody sees and that may not be read for that: it has a place and nothing else."""

    bounds = np.full((2, 3), 900.0)


def test_later_views_tell_the_depth_of_earlier_ones() -> None:
    truth, images, _ = wall_views([wall_camera(x) for x in PLACES])
    memory = shown(truth, images, [True] * 3)
    after = told_again(memory, [wall_camera(PLACES[2])])
    assert missed(start_depth(memory), truth[0]) > 0.09
    assert missed(start_depth(after), truth[0]) < 0.02
    last = [np.sort(of_view(m, 2).blocks[0].positions(), 0) for m in (memory, after)]
    assert np.allclose(*last, atol=1e-3)  # what was written last was told when it was written
    assert after.points == memory.points
    again = told_again(after, [wall_camera(PLACES[2])])
    assert missed(start_depth(again), truth[0]) < 0.02
    far = FarAway()
    wide = told_again(replace(memory, blocks=(*memory.blocks, far)), [wall_camera(PLACES[2])])
    assert wide.blocks[-1] is far
    assert missed(start_depth(replace(wide, blocks=wide.blocks[:-1])), truth[0]) < 0.02


@pytest.mark.parametrize(
    ("pictures", "measured"), [((True, True, False), False), ((False, False, True), False), ((True, False, True), True)]
)
def test_nothing_is_told_without_pictures_or_of_what_was_measured(pictures: Sequence[bool], measured: bool) -> None:
    truth, images, _ = wall_views([wall_camera(x) for x in PLACES])
    memory = shown(truth, images, pictures, measured)
    after = told_again(memory, [wall_camera(PLACES[2])])
    assert all(block is old for block, old in zip(after.blocks, memory.blocks, strict=True))


def test_views_that_are_right_are_not_written_again() -> None:
    truth, images, _ = wall_views([wall_camera(x) for x in PLACES])
    memory = shown(truth / 1.1, images, [True] * 3)
    after = told_again(memory, [wall_camera(PLACES[2])])
    assert all(block is old for block, old in zip(after.blocks, memory.blocks, strict=True))


def test_a_memory_of_nothing_is_told_nothing() -> None:
    memory = LatentMemory.empty(TINY.config)
    assert told_again(memory, []) is memory


@pytest.mark.parametrize("together", [True, False])
def test_worlds_that_are_shown_views_from_other_places_know_the_depth(together: bool) -> None:
    cameras = [wall_camera(x) for x in PLACES]
    truth, images, _ = wall_views(cameras)
    config = replace(TINY.config, image_size=(SIZE, SIZE), latent_size=(12, 12))
    config = replace(config, memory=replace(config.memory, shifts=2, drawn=True))
    depth = Told({float(camera.position[0]): metres for camera, metres in zip(cameras, truth, strict=True)})
    model = replace(TINY, config=config, depth=depth, segmenter=Labels(still(truth)[0]))
    pictures = list(frames_to_uint8(images))
    _, state = model.start(pictures[0], cameras[0])
    chunks = []
    for some in [slice(1, 3)] if together else [slice(1, 2), slice(2, 3)]:
        chunk, state = model.observe(state, pictures[some], cameras[some])
        chunks.append(chunk.depth)
    assert missed(torch.cat(chunks), truth[1:]) < 0.03
    assert missed(start_depth(state.memory), truth[0]) < 0.03  # which was written before anything was told
    given = [np.full((SIZE, SIZE), 2.0)]
    assert (model.observe(state, pictures[1:2], cameras[1:2], given)[0].depth == 2.0).all()
