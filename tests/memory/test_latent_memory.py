"""The latent memory: what is written from a view is read from it, and nothing else changes."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import true_rows
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.world import GateConfig, MemoryConfig, ReadoutConfig, WorldModelConfig
from mirage_env.interfaces import Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.tokens.blocks import Frames
from mirage_env.tokens.packing import Tokens, pack

GRID, CHANNELS = (6, 8), 5
CONFIG = WorldModelConfig("memory", (48, 64), GRID, CHANNELS)
ONE_CELL = ReadoutConfig(winner="nearest", footprint=0.0)  # the paper's
TWO_LAYERS = ReadoutConfig()
HALF = MemoryConfig(features="float16")
readouts = pytest.mark.parametrize("readout", [ONE_CELL, TWO_LAYERS], ids=["one_cell", "two_layers"])
FIELDS = [f.name for f in fields(Readout)]


def empty(readout: ReadoutConfig = TWO_LAYERS, gate: GateConfig | None = None, layout: MemoryConfig | None = None):
    return LatentMemory.empty(
        replace(CONFIG, readout=readout, gate=gate or GateConfig(), memory=layout or MemoryConfig())
    )


def camera_at(position=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)) -> Camera:
    return Camera.from_fov(CONFIG.fov, 48, 64, pose_from_rotation_vector(position, turn))


def tokens(seed: int, views: int = 1) -> Tensor:  # [T, C, h, w]
    return torch.randn(views, CHANNELS, *GRID, generator=torch.Generator().manual_seed(seed))


def rounding(latents: Tensor, features: str) -> Tensor:  # [T, C, h, w] -> [T, 1, h, w]
    """Most that keeping a feature may change it: half a step of 8 bits and the rounding of the gain; or of a half."""
    largest = latents.abs().amax(1, keepdim=True)
    return largest * (0.5 / 127 + 2.0**-11 if features == "int8" else 2.0**-11)


def same(a: Readout, b: Readout) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def boxes_before_a_wall(rng: np.random.Generator) -> Tensor:  # [1, H, W]
    """A slanted wall with boxes before it: depth with jumps in both directions."""
    depth = 4.0 + np.linspace(0.0, 3.0, 64) * np.ones((48, 1))
    for _ in range(4):
        row, col = rng.integers(0, 40), rng.integers(0, 56)
        depth[row : row + rng.integers(4, 20), col : col + rng.integers(4, 20)] = rng.uniform(0.3, 3.0)
    return torch.from_numpy(depth).float()[None]


def write(
    memory: LatentMemory, camera: Camera, depth: Tensor | float, seed: int = 0, born: int = 0, keep=None, shifts=0
):
    depth = torch.full((1, 48, 64), depth) if isinstance(depth, float) else depth
    keep = torch.ones(1, *GRID, dtype=torch.bool) if keep is None else keep
    return memory.write(tokens(seed), torch.zeros(1, 3, 48, 64), depth, keep, [camera], born, shifts=shifts)


def walk(memory: LatentMemory, chunks: int, views: int = 2, origin=(0.0, 0.0, 0.0)) -> LatentMemory:
    """Write a few views a chunk, from all around."""
    rng = np.random.default_rng(7)
    for born in range(chunks):
        cameras = [camera_at(origin + rng.normal(0.0, 1.0, 3), rng.normal(0.0, 1.0, 3)) for _ in range(views)]
        depth = torch.cat([boxes_before_a_wall(rng) for _ in range(views)])
        keep = torch.from_numpy(rng.uniform(size=(views, *GRID)) < 0.9)
        memory = memory.write(tokens(born, views), torch.zeros(views, 3, 48, 64), depth, keep, cameras, born)
    return memory


def contents(memory: LatentMemory) -> list[bytes]:
    """Every array of a memory."""
    arrays = []
    for block in memory.blocks:
        arrays += [getattr(part, f.name) for part in (block, block.frames) for f in fields(part)]
    return [a.tobytes() for a in arrays if isinstance(a, np.ndarray)]


# What is read


@pytest.mark.parametrize("stretch", [0.5, 1.7])
def test_pixels_that_are_not_square_are_read_back_as_they_were_written(stretch):
    K_image = np.diag([1.0, stretch, 1.0]) @ camera_at().K_image
    camera = Camera(camera_at().T_world_cam, K_image, 48, 64)
    memory = write(empty(), camera, 5.0)
    found = memory.read([camera], now=1)
    assert found.observed.all()
    assert found.scale.abs().max() < 1e-3  # every footprint is as large as its cell
    assert found.offset.abs().max() < 1e-2
    assert write(memory, camera, 5.0, seed=1, born=1).points == memory.points
    # From there on a footprint covers its own cell and no other, either way.
    alone = write(empty(), camera, 5.0, keep=torch.eye(6, 8, dtype=torch.bool)[None])
    assert torch.equal(alone.read([camera], now=1).observed[0] > 0, torch.eye(6, 8, dtype=torch.bool))


@readouts
@pytest.mark.parametrize("features", ["int8", "float16"])
@pytest.mark.parametrize("origin", [0.0, 1e3, 1e5], ids=["0_km", "1_km", "100_km"])
@pytest.mark.parametrize("seed", range(3))
def test_reading_from_the_source_view_gives_the_tokens_back(readout, features, origin, seed):
    rng = np.random.default_rng(seed)
    camera = camera_at(origin + rng.normal(0.0, 1.0, 3), rng.normal(0.0, 1.0, 3))
    keep = torch.from_numpy(rng.uniform(size=(1, *GRID)) < 0.8)
    depth = boxes_before_a_wall(rng)
    memory = write(empty(readout, layout=MemoryConfig(features=features)), camera, depth, seed, keep=keep)
    found = memory.read([camera], now=3)
    own = keep.float()
    wrong = (found.latent - tokens(seed)).abs() * own[:, None]
    assert (wrong <= rounding(tokens(seed), features)).all()
    assert torch.equal(found.age * own, 3.0 * own)
    assert (found.observed >= own).all()
    if not readout.footprint:
        assert torch.equal(found.observed, own)
    # Places are exact to 0.0005 cell anywhere, footprints are halves.
    assert (found.offset.abs().amax(1) * own).max() < 1e-3
    assert (found.scale.abs() * own).max() < 2e-3
    assert found.depth[keep].allclose(torch.from_numpy(reference.depth_to_grid(depth[0].numpy(), GRID))[keep[0]], 1e-3)
    assert same(memory.read([camera], now=3), found)


@readouts
def test_a_world_far_from_the_origin_reads_as_one_at_the_origin(readout):
    far = np.array([131072.0, -65536.0, 131072.0])
    near_world, far_world = walk(empty(readout), 6), walk(empty(readout), 6, origin=far)
    for place in np.random.default_rng(0).normal(0.0, 1.0, (5, 3)):
        here, there = near_world.splat([camera_at(place)]), far_world.splat([camera_at(far + place)])
        np.testing.assert_array_equal(here.block, there.block)
        np.testing.assert_array_equal(here.token, there.token)
        np.testing.assert_allclose(here.depth, there.depth, rtol=1e-6)
        np.testing.assert_allclose(here.offset, there.offset, atol=1e-5)


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


def test_readout_of_several_cameras_is_that_of_each():
    memory = write(empty(), camera_at(), boxes_before_a_wall(np.random.default_rng(1)))
    cameras = [camera_at((0.1 * i, 0.0, 0.2 * i), (0.0, 0.1 * i, 0.0)) for i in range(4)]
    together = memory.read(cameras, now=1)
    for i, camera in enumerate(cameras):
        alone = memory.read([camera], now=1)
        for name in FIELDS:
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0]), name
            assert torch.equal(getattr(together[i], name), getattr(alone, name)), name
            assert torch.equal(getattr(together[i - 4], name), getattr(alone, name)), name
    assert together[1:3].latent.shape[0] == 2


def test_what_a_readout_gives_away_is_the_callers():
    memory = write(empty(), camera_at(), 3.0)
    first = memory.read([camera_at()], now=1)
    expected = memory.read([camera_at()], now=1)
    for name in FIELDS:
        getattr(first, name).fill_(7.0)
    assert same(memory.read([camera_at()], now=1), expected)
    splat = memory.splat([camera_at()])
    memory.read([camera_at()], 1, splat).depth.fill_(7.0)
    assert same(memory.read([camera_at()], 1, splat), expected)


@readouts
@pytest.mark.parametrize("seed", range(4))
def test_culling_never_changes_a_readout(readout, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    memory = empty(readout)
    for born in range(60):  # small patches everywhere, so that many lie just outside a view
        patch = Tokens(
            positions=rng.uniform(-4.0, 4.0, 3) + rng.uniform(-0.1, 0.1, (3, 3)),
            feature=rng.normal(size=(3, CHANNELS)).astype(np.float32),
            footprint=rng.uniform(0.1, 2.0, 3).astype(np.float32),
            frame=np.zeros(3, int),
            cell=np.arange(3),
            frames=Frames.of([camera_at()], GRID, 0),
        )
        memory = replace(memory, blocks=(*memory.blocks, pack(patch, born)))
    cameras = [camera_at(rng.normal(0.0, 1.0, 3), rng.normal(0.0, 1.0, 3)) for _ in range(20)]
    culled = [memory.read([c], now=60) for c in cameras]
    assert 0 < np.mean([len(memory.visible([c])) for c in cameras]) < 40
    monkeypatch.setattr(LatentMemory, "visible", lambda self, cameras: np.arange(len(self.blocks)))
    for camera, found in zip(cameras, culled, strict=True):
        assert same(replace(memory).read([camera], now=60), found)


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


# What is written


def test_cells_that_are_not_kept_are_not_written():
    keep = torch.from_numpy(np.random.default_rng(0).uniform(size=(1, *GRID)) < 0.5)
    memory = write(empty(), camera_at(), 3.0, keep=keep)
    assert memory.points == int(keep.sum())
    assert write(memory, camera_at(), 3.0, keep=torch.zeros_like(keep)).blocks == memory.blocks


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_no_invalid_depth_becomes_a_point_even_if_its_cell_is_kept(value):
    depth = torch.full((1, 48, 64), 3.0)
    depth[0, :8, :8] = value
    memory = write(empty(), camera_at(), depth)
    assert memory.points == GRID[0] * GRID[1] - 1
    assert np.isfinite(memory.blocks[0].positions()).all()


def test_tokens_know_the_frame_and_the_cell_they_were_written_from():
    memory = walk(empty(layout=MemoryConfig(merge_tokens=0)), chunks=3)
    assert memory.frames == 6
    for chunk, block in enumerate(memory.blocks):
        assert set(block.frames.row) <= {2 * chunk, 2 * chunk + 1}
        for frame, cell, place in zip(block.frame, block.cell, block.positions(), strict=True):
            T, K = block.frames.T_world_cam[frame], block.frames.K_latent[frame]
            u, v, z = K @ (T[:3, :3].T @ (place - T[:3, 3]))
            assert [u / z, v / z] == pytest.approx([cell % 8 + 0.5, cell // 8 + 0.5], abs=1e-3)


def flags(memory: LatentMemory) -> dict[int, set[bool]]:
    """What the tokens of each view say of it: whether a camera truly saw it."""
    found: dict[int, set[bool]] = {}
    for block in memory.blocks:
        for frame in block.frame:
            found.setdefault(int(block.frames.row[frame]), set()).add(bool(block.frames.true[frame]))
    return found


@settings(max_examples=20)
@given(true=st.lists(st.booleans(), min_size=1, max_size=8), merge=st.sampled_from([0, 8192]), fork=st.booleans())
def test_every_token_knows_whether_a_camera_truly_saw_its_view(true, merge, fork):
    """True views come at three shifts, imagined ones one by one; what a fork writes changes nothing."""
    memory = empty(layout=MemoryConfig(merge_tokens=merge, shifts=2))
    for row, seen in enumerate(true):
        views = 3 if seen else 1
        cameras = [camera_at((0.1 * i, 0.0, 0.0), (0.0, 0.7 * row, 0.0)) for i in range(views)]
        depth, keep = torch.full((views, 48, 64), 3.0), torch.ones(views, *GRID, dtype=torch.bool)
        before, more = memory, (torch.zeros(views, 3, 48, 64), depth, keep, cameras, row)
        memory = before.write(tokens(row, views), *more, shifts=3 if seen else 0)
        if fork:
            before.write(tokens(row, views), *more, shifts=0 if seen else 3)
    assert memory.frames == len(true)
    assert flags(memory) == {row: {seen} for row, seen in enumerate(true)}
    assert true_rows(memory) == [row for row, seen in enumerate(true) if seen]


def test_true_views_without_a_token_left_are_not_among_the_true_rows():
    assert true_rows(empty()) == []
    memory = islands(5, true=(1, 2, 4))
    assert true_rows(memory) == [1, 2, 4]
    thinned = replace(memory, blocks=tuple(b.keep(b.cell % 2 > 0) for b in memory.blocks))
    assert true_rows(thinned) == [1, 2, 4]
    layout = MemoryConfig(merge_tokens=0, max_bytes=3 * memory.blocks[0].nbytes)
    after = write(replace(memory, layout=layout), camera_at((900.0, 0.0, 0.0)), 3.0, born=5)
    assert [b.newest for b in after.blocks] == [0, 4, 5]
    assert true_rows(after) == [4]


def test_forks_share_the_past_and_do_not_see_each_other():
    trunk = walk(empty(layout=MemoryConfig(merge_tokens=0)), chunks=3)
    before = contents(trunk)
    left = write(trunk, camera_at((50.0, 0.0, 0.0)), 3.0, seed=1, born=3)
    right = write(trunk, camera_at((0.0, 0.0, 50.0)), 2.0, seed=2, born=3)
    for branch in (left, right):
        assert all(a is b for a, b in zip(branch.blocks[:3], trunk.blocks, strict=True))
        assert len(branch.blocks) == 4
    assert contents(trunk) == before
    assert not right.read([camera_at((50.0, 0.0, 0.0))], now=4).observed.any()


def test_writing_leaves_the_old_memory_and_its_evidence_as_they_were():
    before = walk(empty(), chunks=3)
    arrays, shown = contents(before), before.read([camera_at()], now=4)
    after = write(before, camera_at(), 1.5, seed=9, born=3)
    assert contents(after) != arrays
    assert contents(before) == arrays
    assert same(before.read([camera_at()], now=4), shown)


def test_writing_keeps_its_own_copy_of_the_latents():
    latents = tokens(0).half()
    memory = empty(layout=HALF).write(
        latents, torch.zeros(1, 3, 48, 64), torch.full((1, 48, 64), 3.0), torch.ones(1, *GRID) > 0, [camera_at()], 0
    )
    expected = latents.float().clone()
    latents.zero_()
    assert torch.equal(memory.read([camera_at()], now=0).latent, expected)


@pytest.mark.parametrize(("features", "channel_bytes"), [("int8", CHANNELS + 2), ("float16", 2 * CHANNELS)])
def test_points_and_bytes_are_counted(features, channel_bytes):
    memory = write(empty(layout=MemoryConfig(features=features)), camera_at(), 3.0)
    assert memory.points == 48
    per_token = channel_bytes + 6 + 2 + 2 + 2 + 1  # place, footprint, frame, cell, confidence
    tiles, frames, anchor = 1, 1, 24
    assert (
        memory.nbytes == 48 * per_token + tiles * (24 + 4) + (tiles + 1) * 4 + frames * (4 + 128 + 72 + 2 + 4) + anchor
    )


# The gate


@readouts
def test_a_second_look_from_the_same_place_adds_nothing(readout):
    rng = np.random.default_rng(3)
    camera, depth = camera_at((1.0, 2.0, 3.0), (0.3, 0.2, 0.1)), boxes_before_a_wall(rng)
    memory = write(empty(readout), camera, depth)
    again = write(memory, camera, depth, seed=1, born=1)
    assert again.points == memory.points
    np.testing.assert_array_equal(again.read([camera], now=1).latent, memory.read([camera], now=1).latent)


def test_views_of_one_write_are_gated_against_each_other():
    cameras, keep = [camera_at()] * 3, torch.ones(3, *GRID, dtype=torch.bool)
    memory = empty(layout=HALF).write(
        tokens(0, 3), torch.zeros(3, 3, 48, 64), torch.full((3, 48, 64), 3.0), keep, cameras, 0
    )
    assert memory.points == 48
    assert torch.equal(memory.read(cameras[:1], now=0).latent, tokens(0, 3)[:1].half().float())


def test_a_dense_memory_writes_every_view_of_a_chunk_where_it_is_new():
    """Who comes back to any of the views finds the very cells that were shown there."""
    cameras = [camera_at((0.02 * i, 0.0, 0.0)) for i in range(3)]
    keep = torch.ones(3, *GRID, dtype=torch.bool)
    views = (torch.zeros(3, 3, 48, 64), torch.full((3, 48, 64), 3.0), keep, cameras)
    memory = empty(layout=replace(HALF, shifts=2)).write(tokens(0, 3), *views, 1)
    assert memory.points == 3 * 48
    shown = memory.read(cameras, now=2)
    assert torch.equal(shown.latent, tokens(0, 3).half().float())
    assert memory.write(tokens(1, 3), *views, 2).points == memory.points  # what is known is not written again


def test_a_closer_look_adds_points_and_is_read_from_there_on():
    memory = write(empty(layout=HALF), camera_at(), 4.0)
    closer = camera_at((0.0, 0.0, 2.0))
    after = write(memory, closer, 2.0, seed=1, born=1)
    assert after.points == 96
    assert torch.equal(after.read([closer], now=1).latent, tokens(1).half().float())
    assert torch.equal(after.read([camera_at()], now=1).latent, tokens(0).half().float())


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


# Merging


@readouts
def test_merging_never_changes_a_readout(readout):
    merged, apart = (walk(empty(readout, layout=MemoryConfig(merge_tokens=n)), 12) for n in (8192, 0))
    assert len(merged.blocks) < len(apart.blocks)
    assert merged.points == apart.points
    rng = np.random.default_rng(1)
    for _ in range(10):
        camera = camera_at(rng.normal(0.0, 1.0, 3), rng.normal(0.0, 1.0, 3))
        assert same(merged.read([camera], now=12), apart.read([camera], now=12))


def test_the_number_of_blocks_grows_logarithmically():
    memory = empty()
    for born in range(150):
        memory = write(memory, camera_at((0.0, 0.0, 0.5 * born)), 3.0, seed=born, born=born)
        assert len(memory.blocks) <= 2 + math.log2(memory.points)
    assert memory.points > 2000


def test_blocks_do_not_grow_beyond_their_limit_and_the_start_view_stays_alone():
    memory = walk(empty(layout=MemoryConfig(merge_tokens=200)), chunks=20)
    assert max(len(b) for b in memory.blocks) <= 200
    assert memory.blocks[0].newest == 0
    births = np.concatenate([b.born[::-1] for b in memory.blocks])
    assert (np.diff(births) >= 0).all()


def test_blocks_too_far_from_each_other_for_exact_merging_stay_apart():
    memory = empty()
    for born in range(1, 6):
        memory = write(memory, camera_at((1e4 * born, 0.0, 0.0)), 3.0, born=born)
    assert len(memory.blocks) == 5


# Eviction


def islands(count: int, true: Sequence[int] = ()) -> LatentMemory:
    """Blocks of equal size that no other view sees; the first is the start view. Some are of true views."""
    memory = empty(layout=MemoryConfig(merge_tokens=0))
    for born in range(count):
        memory = write(memory, camera_at((100.0 * born, 0.0, 0.0)), 3.0, born=born, shifts=int(born in true))
    return memory


def with_confidence(memory: LatentMemory, *values: int) -> LatentMemory:
    blocks = [
        b.with_confidence(np.full(len(b), value, np.uint8)) for b, value in zip(memory.blocks, values, strict=True)
    ]
    return replace(memory, blocks=tuple(blocks))


@pytest.mark.parametrize(
    ("room", "left"), [(6, [0, 1, 2, 3, 4, 5]), (5, [0, 2, 3, 4, 5]), (4, [0, 2, 4, 5]), (3, [0, 2, 5]), (2, [0, 5])]
)
def test_least_confident_then_oldest_blocks_are_evicted_beyond_the_budget(room, left):
    memory = with_confidence(islands(5), 0, 0, 3, 0, 1)
    size = memory.blocks[0].nbytes
    memory = replace(memory, layout=MemoryConfig(merge_tokens=0, max_bytes=room * size))
    after = write(memory, camera_at((900.0, 0.0, 0.0)), 3.0, born=5)
    assert [b.newest for b in after.blocks] == left
    assert after.nbytes <= room * size
    assert len(memory.blocks) == 5


def test_eviction_never_goes_below_start_view_and_newest_block():
    memory = empty(layout=MemoryConfig(merge_tokens=0, max_bytes=1))
    for born in range(4):
        memory = write(memory, camera_at((100.0 * born, 0.0, 0.0)), 3.0, born=born)
    assert [b.newest for b in memory.blocks] == [0, 3]


def test_a_budget_holds_over_a_long_walk():
    limit = 30_000
    memory = walk(empty(layout=MemoryConfig(merge_tokens=100, max_bytes=limit)), chunks=30)
    assert memory.nbytes <= limit
    assert memory.blocks[0].pinned
    assert memory.blocks[-1].newest == 29
