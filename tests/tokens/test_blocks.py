"""Packing keeps places, values and order; joining and keeping move nothing."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import GRID, NEAR, block_of, cloud, tokens_of, views

from mirage_env.camera import Camera
from mirage_env.config.world import ReadoutConfig
from mirage_env.readout.zbuffer import Rule
from mirage_env.readout.zbuffer_numba import splat_numba
from mirage_env.tokens.blocks import NO_DEPTH, NO_PICTURE, TILE, Frames, MemoryBlock
from mirage_env.tokens.packing import pack

CAMERA = Camera.from_fov(1.3, 32, 48)


def numbered(rng: np.random.Generator, count: int, spread: float = 4.0, **options) -> tuple[MemoryBlock, np.ndarray]:
    """A block whose tokens say in `cell` which of the given positions they are, and those positions."""
    xyz = rng.uniform(-spread, spread, (count, 3))
    return block_of(xyz, rng.uniform(0.1, 1.0, count), **options), xyz


def wall(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:  # [N, 3], [N]
    """Surface points of one view of 44 x 80 cells, and the size of a cell there, metres."""
    v, u = np.meshgrid(np.arange(44) + 0.5, np.arange(80) + 0.5, indexing="ij")
    z = 5.0 + np.sin(u / 9.0) + 0.3 * np.cos(v / 5.0)
    focal = 52.0
    return np.stack([(u - 40) / focal * z, (v - 22) / focal * z, z], -1).reshape(-1, 3), (z / focal).ravel()


def test_a_token_lies_about_a_ten_thousandth_of_a_cell_from_where_it_was_given(rng):
    xyz, size = wall(rng)
    block = block_of(xyz, size)
    error = np.abs(block.positions() - xyz[block.cell]).max(1) / size[block.cell]
    assert np.median(error) < 1e-4
    assert error.max() < 1e-3  # in tiles where the Morton curve jumps


@given(seed=st.integers(0, 1000), count=st.integers(1, 300), far=st.sampled_from([0.0, 100_000.0, -3e6]))
def test_position_errors_are_at_most_half_a_step(seed, count, far):
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-4.0, 4.0, (count, 3)) + far
    block = block_of(xyz, np.ones(count))
    bound = 0.5 * block.step[block.tile_of] * (1 + 1e-3) + 1e-15 * abs(far) + 1e-12
    assert (np.abs(block.positions() - xyz[block.cell]) <= bound).all()
    low, high = block.bounds
    assert (block.positions() >= low - 1e-9).all()
    assert (block.positions() <= high + 1e-9).all()


def test_eight_bit_features_of_gaussian_latents_are_off_by_less_than_a_hundredth(rng):
    values = rng.normal(0.0, 1.0, (2000, 48)).astype(np.float32)
    block = block_of(rng.uniform(-4, 4, (2000, 3)), np.ones(2000), feature=values)
    error = block.values() - values[block.cell]
    assert np.sqrt((error**2).mean() / (values**2).mean()) < 0.0068
    largest = np.abs(values[block.cell]).max(1, keepdims=True)
    # Half a unit, and what rounding the gain to half precision adds to 127 units.
    assert (np.abs(error) <= largest * (0.5 / 127 + 1e-3)).all()


def test_half_precision_features_are_those_of_numpy(rng):
    values = rng.normal(0.0, 1.0, (100, 7)).astype(np.float32)
    block = block_of(rng.uniform(-4, 4, (100, 3)), np.ones(100), feature=values, features="float16")
    assert block.feature.dtype == np.float16
    assert not len(block.gain)
    np.testing.assert_array_equal(block.values(), values[block.cell].astype(np.float16).astype(np.float32))


def test_features_of_zero_stay_zero():
    block = block_of([[0.0, 0.0, 1.0]], [1.0], feature=[[0.0, 0.0]])
    assert not block.values().any()


@given(seed=st.integers(0, 1000), count=st.integers(1, 300))
def test_every_token_keeps_what_belongs_to_it(seed, count):
    rng = np.random.default_rng(seed)
    frames = replace(Frames.of([CAMERA] * 5, GRID, 10), true=rng.random(5) < 0.5)
    tokens = tokens_of(
        rng.uniform(-4.0, 4.0, (count, 3)),
        rng.uniform(0.1, 1.0, count),
        frame=rng.integers(0, 5, count),
        frames=frames,
        confidence=rng.integers(0, 5, count).astype(np.uint8),
    )
    block = pack(tokens, 3)
    assert sorted(block.cell) == list(range(count))
    np.testing.assert_array_equal(block.footprint, tokens.footprint[block.cell].astype(np.float16))
    np.testing.assert_array_equal(block.frames.row[block.frame], 10 + tokens.frame[block.cell])
    np.testing.assert_array_equal(block.frames.true[block.frame], frames.true[tokens.frame[block.cell]])
    np.testing.assert_array_equal(block.confidence, tokens.confidence[block.cell])
    assert (block.births() == 3).all()
    assert (block.newest, block.pinned) == (3, False)


@pytest.mark.parametrize("true", [False, True])
def test_all_shifts_of_a_view_are_true_or_none(true):
    frames = Frames.of([CAMERA] * 4, GRID, 7, shifts=2, true=true)
    assert frames.row.tolist() == [7, 7, 8, 8]
    assert frames.true.dtype == np.bool_
    assert frames.true.tolist() == [true] * 4
    assert not Frames.of([CAMERA], GRID, 0).true.any()


def test_tokens_of_one_place_keep_the_order_they_are_given_in():
    block = block_of([[1.0, 2.0, 3.0]] * 200, np.ones(200))
    np.testing.assert_array_equal(block.cell, np.arange(200))


def test_tiles_hold_at_most_64_near_neighbours(rng):
    block, _ = numbered(rng, 1000)
    assert np.diff(block.first).max() == TILE
    spread = (65535.0 * block.step).prod(1)
    assert np.median(spread) < 0.2 * 8.0**3


@given(seed=st.integers(0, 1000), share=st.floats(0.0, 1.0))
def test_keeping_some_tokens_changes_nothing_of_them(seed, share):
    rng = np.random.default_rng(seed)
    block, _ = numbered(rng, 300, born=2)
    mask = rng.uniform(size=300) < share
    kept = block.keep(mask)
    assert len(kept) == mask.sum()
    np.testing.assert_array_equal(kept.positions(), block.positions()[mask])
    np.testing.assert_array_equal(kept.values(), block.values()[mask])
    np.testing.assert_array_equal(kept.births(), block.births()[mask])
    for name in ("footprint", "cell"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(block, name)[mask])
    assert (np.diff(kept.first) > 0).all()


def test_keeping_drops_frames_that_no_token_remembers(rng):
    frames = replace(Frames.of([CAMERA] * 3, GRID, 0), true=np.array([False, False, True]))
    tokens = tokens_of(rng.uniform(-1, 1, (30, 3)), np.ones(30), frame=np.repeat([0, 1, 2], 10), frames=frames)
    block = pack(tokens, 0)
    kept = block.keep(block.frames.row[block.frame] != 1)
    np.testing.assert_array_equal(kept.frames.row, [0, 2])
    np.testing.assert_array_equal(kept.frames.true, [False, True])
    np.testing.assert_array_equal(kept.frames.row[kept.frame], tokens.frame[kept.cell])


@given(seed=st.integers(0, 1000), shift=st.integers(-60, 60))
def test_joining_moves_no_token_to_the_bit(seed, shift):
    rng = np.random.default_rng(seed)
    views = [Frames.of([CAMERA], GRID, i, true=rng.random() < 0.5) for i in range(3)]
    parts = [
        block_of(rng.uniform(-4, 4, (n, 3)) + i * shift, np.ones(n), born=i, frames=views[i])
        for i, n in enumerate((90, 1, 130))
    ]
    assert all(older.may_join(newer) for older, newer in pairwise(parts))
    joined = MemoryBlock.join(parts)
    newest_first = parts[::-1]
    for name in ("positions", "values", "births"):
        expected = np.concatenate([getattr(p, name)() for p in newest_first])
        np.testing.assert_array_equal(getattr(joined, name)(), expected)
    np.testing.assert_array_equal(joined.cell, np.concatenate([p.cell for p in newest_first]))
    assert (joined.newest, joined.pinned) == (2, True)
    rows = np.concatenate([p.frames.row[p.frame] for p in newest_first])
    np.testing.assert_array_equal(joined.frames.row[joined.frame], rows)
    np.testing.assert_array_equal(joined.frames.true, [view.true[0] for view in reversed(views)])


@pytest.mark.parametrize("winner", ["best_fit", "nearest"])
def test_joining_changes_no_readout(winner, rng):
    rule = Rule.of(ReadoutConfig(winner=winner), NEAR)
    for _ in range(10):
        blocks, cameras = cloud(rng, 200, 3)[1:], views(rng)
        apart = splat_numba(blocks, cameras, GRID, rule, 1)
        joined = splat_numba([MemoryBlock.join(blocks)], cameras, GRID, rule, 1)
        for name in ("depth", "offset", "scale"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(apart, name))


def test_blocks_too_far_from_each_other_to_join_exactly_are_refused(rng):
    near, _ = numbered(rng, 20)
    far = block_of(rng.uniform(-4, 4, (20, 3)) + 5000.0, np.ones(20))
    assert near.may_join(near)
    assert not near.may_join(far)


def test_blocks_with_other_features_or_too_many_frames_do_not_join(rng):
    small, _ = numbered(rng, 20)
    half, _ = numbered(rng, 20, features="float16")
    assert not small.may_join(half)
    many = 60_000
    frames = Frames.of([CAMERA] * many, GRID, 0)
    assert not replace(small, frames=frames).may_join(replace(small, frames=frames))


def test_a_block_of_nothing_can_be_packed_and_kept():
    nothing = block_of(np.zeros((0, 3)), np.zeros(0))
    assert (len(nothing), nothing.newest, nothing.pinned) == (0, 0, False)
    assert nothing.positions().shape == (0, 3)
    assert len(nothing.keep(np.zeros(0, np.bool_))) == 0
    block = block_of([[0.0, 0.0, 1.0]], [1.0])
    assert len(block.keep(np.zeros(1, np.bool_))) == 0


def test_nbytes_counts_every_array(rng):
    block, _ = numbered(rng, 100)

    def total(value: object) -> int:
        if isinstance(value, np.ndarray):
            return value.nbytes
        return sum(total(getattr(value, f.name)) for f in fields(value))  # type: ignore[arg-type]

    assert block.nbytes == total(block)


def test_a_token_of_48_channels_takes_at_most_70_bytes(rng):
    xyz, size = wall(rng)
    block = block_of(xyz, size, feature=rng.normal(0.0, 1.0, (len(xyz), 48)))
    assert block.nbytes / len(block) < 70


def test_new_evidence_shares_the_tokens(rng):
    block, _ = numbered(rng, 50)
    seen = block.with_confidence(block.confidence + 1)
    assert seen.feature is block.feature
    assert (seen.confidence == 1).all()
    assert (block.confidence == 0).all()


def measured(numbers: list[int], depths: dict[int, float]) -> Frames:
    """Frames of such numbers, some of them with a depth."""
    frames = Frames.of([CAMERA] * len(numbers), GRID, 0, true=True)
    frames = replace(frames, row=np.array(numbers, np.int32))
    for row, metres in depths.items():
        frames = frames.with_depth(row, np.full((4, 6), metres, np.float16)).with_picture(row, picture_of(row))
    return frames


def picture_of(row: int) -> np.ndarray:
    return np.full(1 + row % 4, row, np.uint8)


def pictures_are_right(frames: Frames) -> bool:
    """Whether the measured frames, and no others, have their pictures, one after the other."""
    expected = [picture_of(row) if has else NO_PICTURE for row, has in zip(frames.row, frames.measured, strict=True)]
    found = [frames.picture(i) for i in range(len(frames.row))]
    assert np.array_equal(np.concatenate([NO_PICTURE, *found]), frames.pictures)
    return all(map(np.array_equal, found, expected))


def depths_of(frames: Frames) -> dict[int, float]:
    assert len(frames.depth) == frames.measured.sum()
    return dict(zip(frames.row[frames.measured].tolist(), [depth.max() for depth in frames.depth], strict=True))


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True),
    st.permutations(range(8)),
    st.integers(0, 255),
    st.integers(0, 255),
)
def test_measured_depths_and_pictures_stay_with_their_frames(numbers, order, has, kept):
    depths = {row: 1.0 + row for i, row in enumerate(numbers) if has >> i & 1}
    frames = measured(numbers, dict(sorted(depths.items(), key=lambda item: order[numbers.index(item[0])])))
    assert depths_of(frames) == depths
    assert pictures_are_right(frames)
    some = np.array([i for i in range(len(numbers)) if kept >> i & 1], np.int64)
    part = frames[some]
    assert depths_of(part) == {row: depths[row] for row in part.row.tolist() if row in depths}
    other = measured([40, 41], {41: 0.5})
    assert depths_of(Frames.join([part, other])) == {**depths_of(part), 41: 0.5}
    assert pictures_are_right(Frames.join([part, other]))
    assert frames.nbytes - replace(frames, depth=NO_DEPTH).nbytes == 2 * 4 * 6 * len(depths)


def test_of_frames_of_one_number_the_first_is_measured():
    frames = measured([3, 3, 3, 5], {3: 2.0, 5: 4.0})
    assert frames.measured.tolist() == [True, False, False, True]
