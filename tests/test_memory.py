"""The latent memory: what is written from a view is read from it, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from mirage_env.camera import Camera, pose_from_rotation_vector
from mirage_env.config import GateConfig, ReadoutConfig, WorldModelConfig
from mirage_env.memory import LatentMemory, MemoryBlock

GRID, CHANNELS = (6, 8), 5
CONFIG = WorldModelConfig("memory", (48, 64), GRID, CHANNELS)
ONE_CELL = ReadoutConfig(winner="nearest", footprint=0.0)  # the paper's
TWO_LAYERS = ReadoutConfig()
readouts = pytest.mark.parametrize("readout", [ONE_CELL, TWO_LAYERS], ids=["one_cell", "two_layers"])


def empty(readout: ReadoutConfig = TWO_LAYERS, gate: GateConfig = GateConfig()) -> LatentMemory:  # noqa: B008 - frozen
    return LatentMemory.empty(replace(CONFIG, readout=readout, gate=gate))


def camera_at(position=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)) -> Camera:
    return Camera.from_fov(CONFIG.fov, 48, 64, pose_from_rotation_vector(position, turn))


def tokens(seed: int, views: int = 1) -> Tensor:  # [T, C, h, w]
    return torch.randn(views, CHANNELS, *GRID, generator=torch.Generator().manual_seed(seed))


def as_stored(latents: Tensor) -> Tensor:
    """Features are kept in half precision: exact for what a half holds."""
    return latents.half().float()


def boxes_before_a_wall(rng: np.random.Generator) -> Tensor:  # [1, H, W]
    """A slanted wall with boxes before it: depth with jumps in both directions."""
    depth = 4.0 + np.linspace(0.0, 3.0, 64) * np.ones((48, 1))
    for _ in range(4):
        row, col = rng.integers(0, 40), rng.integers(0, 56)
        depth[row : row + rng.integers(4, 20), col : col + rng.integers(4, 20)] = rng.uniform(0.3, 3.0)
    return torch.from_numpy(depth).float()[None]


def write(memory: LatentMemory, camera: Camera, depth: Tensor | float, seed: int = 0, born: int = 0, keep=None):
    depth = torch.full((1, 48, 64), depth) if isinstance(depth, float) else depth
    keep = torch.ones(1, *GRID, dtype=torch.bool) if keep is None else keep
    return memory.write(tokens(seed), torch.zeros(1, 3, 48, 64), depth, keep, [camera], born)


@readouts
@pytest.mark.parametrize("origin", [0.0, 1e3, 1e4], ids=["0_km", "1_km", "10_km"])
@pytest.mark.parametrize("seed", range(6))
def test_reading_from_the_source_view_gives_the_tokens_back_exactly(readout, origin, seed):
    rng = np.random.default_rng(seed)
    camera = camera_at(origin + rng.normal(0.0, 1.0, 3), rng.normal(0.0, 1.0, 3))
    keep = torch.from_numpy(rng.uniform(size=(1, *GRID)) < 0.8)
    depth = boxes_before_a_wall(rng)
    memory = write(empty(readout), camera, depth, seed, keep=keep)
    found = memory.read([camera], now=3)
    own = keep.float()
    assert torch.equal(found.latent * own[:, None], as_stored(tokens(seed)) * own[:, None])
    assert torch.equal(found.age * own, 3.0 * own)
    assert (found.observed >= own).all()
    if not readout.footprint:
        assert torch.equal(found.observed, own)
    # Where the point is seen rounds with the float32 coordinates: 1e-5 cells at the origin, 6e-5 m at 1 km.
    tolerance = 1e-5 + 1e-7 * origin * CONFIG.latent_size[1] / 0.3
    assert (found.offset.abs().amax(1) * own).max() < tolerance
    assert (found.scale.abs() * own).max() < tolerance
    assert found.depth[keep].allclose(torch.from_numpy(reference.depth_to_grid(depth[0].numpy(), GRID))[keep[0]], 1e-3)


@readouts
def test_where_nothing_is_observed_every_field_is_zero(readout):
    memory = write(empty(readout), camera_at(), 3.0, keep=torch.eye(*GRID)[None] > 0)
    found = memory.read([camera_at(), camera_at(turn=(0.0, 3.0, 0.0))], now=5)
    hidden = found.observed == 0
    assert hidden[1].all()
    for name in ("latent", "offset"):
        assert not getattr(found, name).movedim(1, -1)[hidden].any()
    for name in ("depth", "scale", "age"):
        assert not getattr(found, name)[hidden].any()


def test_an_empty_memory_shows_nothing():
    found = empty().read([camera_at()] * 2, now=1)
    assert found.latent.shape == (2, CHANNELS, *GRID)
    assert not found.observed.any()
    assert empty().points == empty().nbytes == 0


def test_cells_that_are_not_kept_are_not_written():
    keep = torch.from_numpy(np.random.default_rng(0).uniform(size=(1, *GRID)) < 0.5)
    memory = write(empty(), camera_at(), 3.0, keep=keep)
    assert memory.points == int(keep.sum())
    assert write(memory, camera_at(), 3.0, keep=torch.zeros_like(keep)) is memory


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_no_invalid_depth_becomes_a_point_even_if_its_cell_is_kept(value):
    depth = torch.full((1, 48, 64), 3.0)
    depth[0, :8, :8] = value
    memory = write(empty(), camera_at(), depth)
    assert memory.points == GRID[0] * GRID[1] - 1
    assert np.isfinite(memory.blocks[0].xyz).all()


def test_readout_of_several_cameras_is_that_of_each():
    memory = write(empty(), camera_at(), boxes_before_a_wall(np.random.default_rng(1)))
    cameras = [camera_at((0.1 * i, 0.0, 0.2 * i), (0.0, 0.1 * i, 0.0)) for i in range(4)]
    together = memory.read(cameras, now=1)
    for i, camera in enumerate(cameras):
        alone = memory.read([camera], now=1)
        for name in ("latent", "observed", "depth", "offset", "scale", "age"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0]), name
            assert torch.equal(getattr(together[i], name), getattr(alone, name)), name
            assert torch.equal(getattr(together[i - 4], name), getattr(alone, name)), name
    assert together[1:3].latent.shape[0] == 2


@readouts
def test_readout_equals_the_reference_over_many_blocks(readout):
    memory = _walk(empty(readout), chunks=5)
    cameras = [camera_at((0.3, -0.2, 0.4), (0.1, 0.3, 0.0)), camera_at((-0.5, 0.1, -0.6))]
    block = MemoryBlock.join(memory.blocks)
    births = np.repeat([b.born for b in memory.blocks], [len(b) for b in memory.blocks])
    expected = reference.splat(block.xyz, block.footprint, births, cameras, GRID, readout, CONFIG.near)
    found = memory.read(cameras, now=9)
    seen = expected.winner >= 0
    np.testing.assert_array_equal(found.observed, seen)
    np.testing.assert_array_equal(
        found.latent.movedim(1, -1)[torch.from_numpy(seen)], block.feature[expected.winner[seen]]
    )
    np.testing.assert_array_equal(found.age, np.where(seen, 9 - births[expected.winner], 0))
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)


def _walk(memory: LatentMemory, chunks: int, views: int = 2) -> LatentMemory:
    """Write a few views a chunk, from all around."""
    rng = np.random.default_rng(7)
    for born in range(chunks):
        cameras = [camera_at(rng.normal(0.0, 0.7, 3), rng.normal(0.0, 0.8, 3)) for _ in range(views)]
        depth = torch.cat([boxes_before_a_wall(rng) for _ in cameras])
        keep = torch.ones(views, *GRID, dtype=torch.bool)
        memory = memory.write(tokens(born, views), torch.zeros(views, 3, 48, 64), depth, keep, cameras, born)
    return memory


def test_forks_share_blocks_and_do_not_see_each_other():
    trunk = _walk(empty(), chunks=3)
    left = write(trunk, camera_at(turn=(0.0, 2.0, 0.0)), 3.0, seed=1, born=3)
    right = write(trunk, camera_at(turn=(0.0, -2.0, 0.0)), 2.0, seed=2, born=3)
    for branch in (left, right):
        assert all(a is b for a, b in zip(branch.blocks[:3], trunk.blocks, strict=True))
        assert len(branch.blocks) == 4
    assert left.blocks[3] is not right.blocks[3]
    assert left.points < trunk.points + right.points


def test_writing_leaves_the_old_memory_as_it_was():
    before = _walk(empty(), chunks=3)
    copies = [(b.xyz.copy(), b.feature.copy(), b.footprint.copy(), b.born) for b in before.blocks]
    shown = before.read([camera_at()], now=4)
    after = write(before, camera_at(), 1.5, seed=9, born=3)
    assert after is not before
    assert len(before.blocks) == len(copies)
    for block, (xyz, feature, footprint, born) in zip(before.blocks, copies, strict=True):
        np.testing.assert_array_equal(block.xyz, xyz)
        np.testing.assert_array_equal(block.feature, feature)
        np.testing.assert_array_equal(block.footprint, footprint)
        assert block.born == born
    assert torch.equal(before.read([camera_at()], now=4).latent, shown.latent)


def test_writing_keeps_its_own_copy_of_the_latents():
    latents = tokens(0).half()
    memory = empty().write(
        latents, torch.zeros(1, 3, 48, 64), torch.full((1, 48, 64), 3.0), torch.ones(1, *GRID) > 0, [camera_at()], 0
    )
    expected = latents.float().clone()
    latents.zero_()
    assert torch.equal(memory.read([camera_at()], now=0).latent, expected)


def test_points_and_bytes_are_counted():
    memory = write(empty(), camera_at(), 3.0)
    assert memory.points == 48
    assert memory.nbytes == 48 * (3 * 4 + 2 * CHANNELS + 4)


@readouts
def test_a_second_look_from_the_same_place_adds_nothing(readout):
    rng = np.random.default_rng(3)
    camera, depth = camera_at((1.0, 2.0, 3.0), (0.3, 0.2, 0.1)), boxes_before_a_wall(rng)
    memory = write(empty(readout), camera, depth)
    assert write(memory, camera, depth, seed=1, born=1) is memory


def test_views_of_one_write_are_gated_against_each_other():
    cameras, keep = [camera_at()] * 3, torch.ones(3, *GRID, dtype=torch.bool)
    memory = empty().write(tokens(0, 3), torch.zeros(3, 3, 48, 64), torch.full((3, 48, 64), 3.0), keep, cameras, 0)
    assert memory.points == 48
    assert torch.equal(memory.read(cameras[:1], now=0).latent, as_stored(tokens(0, 3)[:1]))


def test_a_closer_look_adds_points_and_is_read_from_there_on():
    memory = write(empty(), camera_at(), 4.0)
    closer = camera_at((0.0, 0.0, 2.0))
    after = write(memory, closer, 2.0, seed=1, born=1)
    assert after.points == 96
    assert torch.equal(after.read([closer], now=1).latent, as_stored(tokens(1)))
    assert torch.equal(after.read([camera_at()], now=1).latent, as_stored(tokens(0)))


@pytest.mark.parametrize(("depth", "new_points"), [(3.0 * 1.15, 0), (3.0 * 0.85, 0), (3.0 * 0.8, 48), (3.0 * 1.3, 48)])
def test_a_change_of_depth_adds_points(depth, new_points):
    memory = write(empty(), camera_at(), 3.0)
    assert write(memory, camera_at(), depth, born=1).points - memory.points == new_points


@pytest.mark.parametrize(("zoom", "is_written"), [(1.7, False), (2.0, True), (1 / 1.7, False), (1 / 2.0, False)])
def test_only_a_clearly_finer_sample_is_written_where_it_falls_on_the_same_place(zoom, is_written):
    start = camera_at()
    K_image = start.K_image.copy()
    K_image[:2, 2] += 4.0  # the axis runs through the centre of cell (3, 4)
    start = Camera(start.T_world_cam, K_image, 48, 64)
    keep = torch.zeros(1, *GRID, dtype=torch.bool)
    keep[0, 3, 4] = True
    memory = write(empty(), start, 6.0, keep=keep)
    there = start.moved(pose_from_rotation_vector([0.0, 0.0, 6.0 - 6.0 / zoom], [0.0, 0.0, 0.0]))
    assert write(memory, there, 6.0 / zoom, keep=keep, born=1).points == 1 + is_written


def test_eviction_keeps_the_budget_the_start_view_and_the_newest_block():
    free = _walk(empty(), chunks=8)
    start, newest = len(free.blocks[0]), len(free.blocks[-1])
    budget = start + newest + sum(len(b) for b in free.blocks[-3:-1])
    assert budget < free.points
    memory = _walk(empty(gate=GateConfig(max_points=budget)), chunks=8)
    assert memory.points <= budget
    births = [b.born for b in memory.blocks]
    assert births[0] == 0
    assert births[-1] == 7
    assert births == sorted(births)
    assert len(births) > 2


def test_eviction_never_goes_below_start_view_and_newest_block():
    memory = _walk(empty(gate=GateConfig(max_points=1)), chunks=4)
    assert [b.born for b in memory.blocks] == [0, 3]


@readouts
@pytest.mark.parametrize("seed", range(4))
def test_culling_never_changes_a_readout(readout, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    memory = empty(readout)
    for born in range(60):  # small patches everywhere, so that many lie just outside a view
        xyz = (rng.uniform(-4.0, 4.0, 3) + rng.uniform(-0.1, 0.1, (3, 3))).astype(np.float32)
        feature, size = rng.normal(size=(3, CHANNELS)).astype(np.float16), rng.uniform(0.1, 2.0, 3).astype(np.float32)
        memory = replace(memory, blocks=(*memory.blocks, MemoryBlock(xyz, feature, size, born)))
    cameras = [camera_at(rng.normal(0.0, 1.0, 3), rng.normal(0.0, 1.0, 3)) for _ in range(20)]
    culled = [memory.read([c], now=60) for c in cameras]
    assert 0 < np.mean([len(memory.visible([c])) for c in cameras]) < 40
    monkeypatch.setattr(LatentMemory, "visible", lambda self, cameras: self.blocks)
    for camera, found in zip(cameras, culled, strict=True):
        everything = memory.read([camera], now=60)
        for name in ("latent", "observed", "depth", "offset", "scale", "age"):
            assert torch.equal(getattr(found, name), getattr(everything, name)), name


@pytest.mark.parametrize("distance", [1.0, 2.0, 3.0])
def test_two_layers_recall_more_than_one_cell_when_walking_forward(distance):
    """Towards a wall, all of it known: one cell tears it open, two layers keep it closed, with the right depth."""
    shown = {}
    for name, readout in (("one", ONE_CELL), ("two", TWO_LAYERS)):
        found = write(empty(readout), camera_at(), 5.0).read([camera_at((0.0, 0.0, distance))], now=1)
        shown[name] = float(found.observed.mean())
        depth = found.depth[found.observed > 0]
        assert depth.allclose(torch.full_like(depth, 5.0 - distance))
    assert shown["two"] == 1.0
    assert shown["one"] < 0.8
