"""Movers that stay: what was seen to move is where it should be by then, until it is found not to be there."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import Labels, path, picture, walled_world_model

from mirage_env.camera import Camera
from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import MOST_MOVERS, MemoryConfig, ReadoutConfig, WorldModelConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import MOVER, STATIC
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.masks import components
from mirage_env.memory.mover_tracking import Views, tracked
from mirage_env.memory.movers import CALM, FARTHEST, FASTEST, MOST_SIGHTINGS, MOST_TOKENS, moments, with_movers
from mirage_env.memory.reposing import Correction, repose_world
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.world_state import WorldState

SIZE, GRID, RATE, WALL = 64, 16, 8.0, 6.0
CONFIG = WorldModelConfig("movers", (SIZE, SIZE), (GRID, GRID), 3, sampler=SamplerConfig(exact=0.05))
FRONT = Camera.from_fov(1.3, SIZE, SIZE)
ASIDE = FRONT.moved(pose_from_rotation_vector([0.0, 0.0, 0.0], [0.0, 2.0, 0.0]))
CHUNK = np.arange(1, 9) / RATE
EMPTY = LatentMemory.empty(CONFIG)
RED, BLUE = (2.0, 0.0, 0.0), (0.0, 0.0, 2.0)


def seen(things, camera=FRONT, wall=WALL):
    """Latent, depth and labels of one view: balls at places (x, y, z) in the camera's first frame before a wall."""
    latent = torch.zeros(3, GRID, GRID)
    depth, labels = torch.full((SIZE, SIZE), wall), torch.full((SIZE, SIZE), STATIC)
    rows, columns = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    for place, color in things:
        x, y, z = camera.T_cam_world[:3, :3] @ np.asarray(place) + camera.T_cam_world[:3, 3]
        if z < 0.2:
            continue
        f = camera.K_image[0, 0]
        inside = (columns - SIZE / 2 - f * x / z) ** 2 + (rows - SIZE / 2 - f * y / z) ** 2 < (0.4 * f / z) ** 2
        depth[inside], labels[inside] = float(z), MOVER
        cells = inside.reshape(GRID, 4, GRID, 4).float().mean((1, 3)) > 0.3
        latent[:, cells] = torch.tensor(color)[:, None]
    return latent, depth, labels


def look(movers, frames, seconds=CHUNK, memory=EMPTY, real=True, cameras=None, config=CONFIG):
    """The movers after a chunk of views, each with its own balls."""
    cameras = [FRONT] * len(frames) if cameras is None else cameras
    parts = [seen(things, c) for things, c in zip(frames, cameras, strict=True)]
    latents, depth, labels = (torch.stack(p) for p in zip(*parts, strict=True))
    blank = memory.read(cameras, 1)
    _, shown = with_movers(blank, movers, cameras, seconds, config)
    views = Views(latents, depth, labels, cameras, seconds, shown, real, blank.observed > 0)
    return tracked(movers, views, memory, config)


def going(start, velocity, color=RED, seconds=CHUNK):
    """The frames of a ball on a straight way."""
    return [[(np.asarray(start) + t * np.asarray(velocity), color)] for t in seconds]


def wall_at(camera, distance):
    """A memory of a wall before a camera."""
    depth, keep = torch.full((1, GRID, GRID), distance), np.ones((1, GRID, GRID), bool)
    return EMPTY.insert(np.ones((1, GRID, GRID, 3), np.float32), depth, keep, [camera], 0)


@settings(max_examples=8, deadline=None)
@given(x=st.floats(-1, 1), z=st.floats(2.0, 4.0), scatter=st.floats(0.0, 0.02), seed=st.integers(0, 99))
def test_what_stands_stays(x, z, scatter, seed):
    rng = np.random.default_rng(seed)
    (mover,) = look((), [[(np.array([x, 0.0, z]) + scatter * rng.standard_normal(3), RED)] for _ in CHUNK])
    assert np.linalg.norm(mover.place(10.0) - [x, 0.0, z]) < 0.2
    assert np.allclose(mover.later(10.0).place(), mover.place(10.0))


@settings(max_examples=8, deadline=None)
@given(vx=st.floats(-0.7, 0.7))
def test_what_moves_goes_on_and_comes_to_rest(vx):
    (mover,) = look((), going([0.0, 0.0, 3.0], [vx, 0.0, 0.0]))
    # A cell is .3 m wide there, and the middle of a ball is known to a part of one.
    assert np.allclose(mover.velocity, [vx, 0.0, 0.0], atol=0.2)
    here, speed = mover.place(), np.linalg.norm(mover.velocity)
    assert np.allclose(here, [vx, 0.0, 3.0], atol=0.2)
    ways = [np.linalg.norm(mover.place(t) - here) for t in (0.05, 0.5, 1.0, 2.0, 50.0)]
    assert ways == sorted(ways)
    assert ways[0] == pytest.approx(0.05 * speed, rel=0.06)
    assert ways[-1] == pytest.approx(CALM * speed, rel=1e-6)


def test_coming_and_going_is_believed_less_than_crossing():
    """Estimated depth drifts by more than movers move."""
    (crossing,), (going_away,) = look((), going([-0.3, 0, 3], [0.6, 0, 0])), look((), going([0, 0, 3], [0, 0, 0.6]))
    assert 0.1 < going_away.velocity[2] < 0.5 * crossing.velocity[0]


def test_what_seems_too_fast_is_slowed_down():
    (mover,) = look((), [[([x, 0.0, 3.0], RED)] for x in np.arange(8) * 0.25 - 1.0], seconds=CHUNK / 3.0)
    assert np.linalg.norm(mover.velocity) == pytest.approx(FASTEST)


def test_a_mover_stops_before_what_the_memory_knows():
    side = FRONT.at(pose_from_rotation_vector([-WALL / 2, 0.0, WALL / 2], [0.0, np.pi / 2, 0.0]))
    frames = going([0.0, 0.0, 3.0], [0.9, 0.0, 0.0])
    (free,), (stopped,) = look((), frames), look((), frames, memory=wall_at(side, 4.2))
    assert free.free == FARTHEST
    assert free.place(9.0)[0] > 1.2
    assert 0.9 < stopped.place(9.0)[0] < 1.2


def test_it_is_shown_again_where_it_should_be_by_then():
    movers = look((), going([-1.0, 0.0, 3.0], [0.4, 0.0, 0.0]))
    away = EMPTY.read([ASIDE], 2)
    assert not with_movers(away, movers, [ASIDE], np.array([1.0]), CONFIG)[0].observed.any()
    readout, shown = with_movers(EMPTY.read([FRONT], 2), movers, [FRONT], np.array([1.0]), CONFIG)
    assert torch.equal(readout.observed[0] > 0, torch.from_numpy(shown[0] == 0))
    assert torch.allclose(readout.latent[0][:, shown[0] == 0].mean(1), torch.tensor(RED), atol=0.4)
    columns = np.nonzero(shown[0] == 0)[1]
    x = (columns.mean() + 0.5 - GRID / 2) / (GRID / 2) * np.tan(0.65) * 3.0
    assert x == pytest.approx(movers[0].place(1.0)[0], abs=0.2)
    assert x > -0.5
    assert float(readout.age.max()) == pytest.approx(0.0, abs=1e-6)
    assert with_movers(readout, movers, [FRONT], np.zeros(1), CONFIG)[1].min() == -1


@pytest.mark.parametrize(("distance", "hidden"), [(1.5, True), (5.0, False)])
def test_the_nearer_of_thing_and_mover_is_shown(distance, hidden):
    memory = wall_at(FRONT, distance)
    movers = look((), going([0.0, 0.0, 3.0], [0.0, 0.0, 0.0]))
    static = memory.read([FRONT], 2)
    readout, shown = with_movers(static, movers, [FRONT], np.zeros(1), CONFIG)
    assert (shown.max() < 0) == hidden
    assert torch.equal(readout.latent, static.latent) == hidden
    assert torch.equal(readout.depth[0][shown[0] < 0], static.depth[0][shown[0] < 0])


def test_movers_are_shown_in_the_quarters_of_cells_too():
    config = replace(CONFIG, readout=ReadoutConfig(quarters=True))
    memory = replace(wall_at(FRONT, 5.0), readout=config.readout)
    movers = look((), going([0.0, 0.0, 3.0], [0.0, 0.0, 0.0]))
    static = memory.read([FRONT], 2)
    readout, shown = with_movers(static, movers, [FRONT], np.zeros(1), config)
    fine = replace(memory, grid=(2 * GRID, 2 * GRID), readout=CONFIG.readout)
    double = replace(CONFIG, image_size=(2 * SIZE, 2 * SIZE), latent_size=(2 * GRID, 2 * GRID))
    expected, finely = with_movers(fine.read([FRONT], 2), movers, [FRONT], np.zeros(1), double)
    assert (finely >= 0).sum() > 2 * (shown >= 0).sum()
    assert torch.equal(readout.finer.latent, expected.latent)
    assert torch.equal(readout.finer.depth, expected.depth)


def test_without_movers_the_readout_is_the_memorys_own():
    static = EMPTY.read([FRONT], 2)
    assert with_movers(static, (), [FRONT], np.zeros(1), CONFIG)[0] is static


def test_a_mover_that_true_views_do_not_find_is_forgotten():
    movers, nothing = look((), going([0.0, 0.0, 3.0], [0.0, 0.0, 0.0])), [[]] * 8
    assert look(movers, nothing) == ()
    assert len(look(movers, [*nothing[1:], [([0.0, 0.0, 3.0], RED)]])) == 1


@pytest.mark.parametrize("color", [RED, BLUE])
@pytest.mark.parametrize("where", [None, [0.0, 0.0, 3.0], [0.1, 0.0, 3.3]])
def test_an_imagined_view_is_an_echo_of_the_movers_it_was_shown(where, color):
    movers = look((), going([0.0, 0.0, 3.0], [0.3, 0.0, 0.0]))
    frames = [[]] * 8 if where is None else going(where, [0.3, 0.0, 0.0], color)
    after = movers
    for _ in range(3):
        after = look(after, frames, real=False)
    assert len(after) == 1
    assert np.array_equal(after[0].feature, movers[0].feature)
    assert after[0].unseen == pytest.approx(3.0)
    assert np.allclose(after[0].place(), movers[0].place(3.0))


def test_what_is_imagined_beside_the_known_movers_is_a_mover_too_while_there_is_room():
    movers = look((), going([-1.0, 0.0, 3.0], [0.0, 0.0, 0.0]))
    beside = going([1.2, 0.0, 3.0], [0.0, 0.0, 0.0], BLUE)
    after = look(movers, beside, real=False)
    assert [round(float(m.place()[0])) for m in after] == [-1, 1]
    full = replace(CONFIG, memory=MemoryConfig(movers=1))
    assert [round(float(m.place()[0])) for m in look(movers, beside, real=False, config=full)] == [-1]


def test_no_imagined_view_makes_a_mover_of_what_the_memory_knows():
    frames = going([0.0, 0.0, 3.0], [0.0, 0.0, 0.0])
    assert len(look((), frames, real=False)) == 1
    assert look((), frames, memory=wall_at(FRONT, 3.0), real=False) == ()
    assert len(look((), frames, memory=wall_at(ASIDE, 3.0), real=False)) == 1  # it knows something else
    assert len(look((), frames, memory=wall_at(FRONT, 3.0))) == 1  # a true one comes in before the wall


def test_a_mover_that_is_out_of_view_or_hidden_is_kept():
    movers, nothing = look((), going([0.0, 0.0, 3.0], [0.0, 0.0, 0.0])), [[]] * 8
    for memory, cameras in ((EMPTY, [ASIDE] * 8), (wall_at(FRONT, 1.0), [FRONT] * 8)):
        after = movers
        for _ in range(3):
            after = look(after, nothing, memory=memory, cameras=cameras)
        assert len(after) == 1
        assert after[0].unseen == pytest.approx(3.0)


def test_two_movers_that_pass_each_other_stay_who_they_are():
    frames = [
        a + b for a, b in zip(going([-0.9, 0, 2.5], [0.7, 0, 0]), going([0.9, 0, 3.7], [-0.7, 0, 0], BLUE), strict=True)
    ]
    first = look((), frames)
    later = [[([-0.2 + 0.7 * t, 0, 2.5], RED), ([0.2 - 0.7 * t, 0, 3.7], BLUE)] for t in CHUNK]
    after = look(first, later)
    assert len(first) == len(after) == 2
    for mover, color, sign in zip(sorted(after, key=lambda m: m.place()[2]), (RED, BLUE), (1, -1), strict=True):
        assert np.allclose(mover.feature.mean(0), color, atol=0.5)
        assert mover.velocity[0] * sign > 0.3


def test_worlds_share_movers_and_not_their_changes():
    before = look((), going([0.0, 0.0, 3.0], [0.3, 0.0, 0.0]))
    kept = copy.deepcopy(before)
    look(before, going([0.3, 0.0, 3.0], [-0.3, 0.0, 0.0]))
    look(before, [[]] * 8)
    look(before, [[]] * 8, cameras=[ASIDE] * 8)
    for mover, as_it_was in zip(before, kept, strict=True):
        for name in ("offset", "footprint", "feature", "track", "T_world_cam"):
            assert np.array_equal(getattr(mover, name), getattr(as_it_was, name))
        assert (mover.free, mover.cells, mover.frame) == (as_it_was.free, as_it_was.cells, as_it_was.frame)


def test_the_look_is_taken_from_the_latest_true_view_of_the_whole():
    movers = look((), going([0.0, 0.0, 2.0], [0.0, 0.0, 0.0]))
    after = look(movers, going([0.0, 0.0, 2.0], [0.0, 0.0, 0.0], BLUE))
    assert np.allclose(after[0].feature.mean(0), BLUE, atol=0.5)
    assert len(after[0].track) == MOST_SIGHTINGS
    far = look(movers, going([0.0, 0.0, 2.5], [0.0, 0.0, 0.0], BLUE))
    assert np.array_equal(far[0].feature, movers[0].feature)


def test_there_are_so_many_and_no_larger():
    config = replace(CONFIG, memory=MemoryConfig(movers=2))
    three = [([x, 0.0, 2.6], RED) for x in (-1.4, 0.0, 1.4)]
    assert len(look((), [three] * 8, config=config)) == 2
    assert look((), [three] * 8, config=replace(CONFIG, memory=MemoryConfig(movers=0))) == ()
    wide = replace(CONFIG, latent_size=(32, 32))
    ones = torch.ones(1, SIZE, SIZE)
    views = Views(torch.ones(1, 3, 32, 32), 2.0 * ones, MOVER * ones.long(), [FRONT], np.zeros(1), real=True)
    (mover,) = tracked((), views, LatentMemory.empty(wide), wide)
    assert len(mover.offset) == MOST_TOKENS
    with pytest.raises(InvalidOptionError, match="at most"):
        MemoryConfig(movers=MOST_MOVERS + 1)


@pytest.mark.parametrize("per_side", [1, 2])
def test_what_is_narrower_than_a_cell_is_seen_at_sub_cell_shifts(per_side):
    """A pole over the border of two columns of cells: none shows enough of it, one of the shifted cells does."""
    labels = torch.full((1, SIZE, SIZE), STATIC)
    labels[:, 12:52, 31:33] = MOVER  # a cell has 4 pixels
    latents, depth = torch.ones(per_side**2, 3, GRID, GRID), (3.0 + 0.004 * (torch.arange(SIZE) + 0.5 - SIZE / 2))
    depth = depth[None, :, None].expand(1, SIZE, SIZE)
    views = Views(latents, depth, labels, [FRONT], np.zeros(1), real=True)
    movers = tracked((), views, EMPTY, CONFIG)
    if per_side == 1:
        assert movers == ()
        return
    (mover,) = movers
    assert np.allclose(mover.offset[:, 0], 0.0, atol=1e-5)
    assert np.allclose(mover.place(), [0.0, 0.0, 3.0], atol=0.02)
    points = mover.place() + mover.offset
    rows = FRONT.K_image[1, 1] * points[:, 1] / points[:, 2]  # from the middle of the picture
    assert np.allclose(points[:, 2], 3.0 + 0.004 * rows, atol=0.004)  # a pixel
    assert len(mover.offset) in (19, 20, 21)
    assert mover.cells < len(mover.offset)
    shown = with_movers(EMPTY.read([FRONT], 1), movers, [FRONT], np.zeros(1), CONFIG)[1]
    assert (shown[0, 3:13, 7:9] == 0).any(1).all()


def test_a_part_in_which_depth_jumps_is_no_second_mover():
    """Estimated depth of a head runs out into the wall behind it."""
    movers = look((), going([0.0, 0.0, 2.0], [0.0, 0.0, 0.0]))
    latent, depth, labels = seen([([0.0, 0.0, 2.0], RED)])
    depth[:28][labels[:28] == MOVER] = 3.0
    views = [torch.stack([x] * 8) for x in (latent, depth, labels)]
    for real in (True, False):
        after = tracked(movers, Views(*views, [FRONT] * 8, CHUNK, None, real), EMPTY, CONFIG)
        assert len(after) == (1 if real else 3)  # of imagined views only what was shown tells what is known
    alone = tracked((), Views(*views, [FRONT] * 8, CHUNK, None, True), EMPTY, CONFIG)
    assert len(alone) == 2


def test_a_flicker_is_no_mover():
    flicker = [[([0.0, 0.0, 3.0], RED)], *[[]] * 7]
    assert look((), flicker) == look((), flicker, real=False) == ()


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_mover_is_new_where_most_of_the_true_views_that_look_there_show_it(looks):
    """Who turns about has it in the picture of so many of eight views."""
    angles = np.minimum(1.2 / looks * (np.arange(8) - 0.5 * (looks - 1)), 3.0)
    turned = [FRONT.moved(pose_from_rotation_vector([0.0, 0.0, 0.0], [0.0, a, 0.0])) for a in angles]
    for sights in range(looks + 1):
        frames = [[([0.0, 0.0, 3.0], RED)] if i < sights else [] for i in range(8)]
        assert len(look((), frames, cameras=turned)) == (2 * sights > looks)
        assert len(look((), frames, cameras=turned, real=False)) == (sights > 2)


def test_part_of_a_mover_does_not_drag_it_along():
    """A camera that turns away sees less and less of it, at the border of its view."""
    turning = [FRONT.moved(pose_from_rotation_vector([0, 0, 0], [0.0, 0.09 * i, 0.0])) for i in range(1, 9)]
    movers = look((), going([0.0, 0.0, 3.0], [0.0, 0.0, 0.0]))
    after = look(movers, going([0.0, 0.0, 3.0], [0.0, 0.0, 0.0]), cameras=turning)
    assert len(movers[0].track) < len(after[0].track) < len(movers[0].track) + 7
    assert np.linalg.norm(after[0].place(5.0) - movers[0].place()) < 0.2


def test_time_stands_still_where_an_imagined_camera_does():
    path = [FRONT, FRONT, ASIDE, ASIDE]
    assert np.allclose(moments(FRONT, path, CONFIG, past=1), [0.0, 0.0, 0.125, 0.25])
    assert np.allclose(moments(FRONT, [ASIDE, ASIDE], CONFIG), [0.125, 0.25])
    still = FRONT.at(FRONT.T_world_cam)
    assert np.allclose(moments(FRONT, [still, still], CONFIG, real=True), [0.125, 0.25])
    assert np.allclose(moments(FRONT, [still, still], replace(CONFIG, sampler=SamplerConfig())), [0.125, 0.25])


def test_cells_are_one_mover_where_they_touch_and_depth_does_not_jump():
    cells = np.array([[[1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]]], bool)
    depth = np.array([[[2, 2, 0, 9], [0, 0, 2.1, 0], [3, 0, 0, 2.0]]], np.float32)
    number = components(cells, depth)[0]
    assert number[0, 0] == number[0, 1] == number[1, 2] == number[2, 3]
    assert len({number[0, 0], number[0, 3], number[2, 0]}) == 3


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_a_corrected_frame_takes_its_mover_along(scale):
    memory = replace(EMPTY, frames=9)
    movers = look((), going([0.2, 0.0, 3.0], [0.3, 0.0, 0.0]), memory=memory)
    state = WorldState(memory, FRONT, torch.zeros(2, 3, GRID, GRID), 1, torch.zeros(1), movers=movers)
    T = pose_from_rotation_vector([5.0, 1.0, 2.0], [0.0, 1.0, 0.3])
    assert movers[0].frame == 8
    (moved,) = repose_world(state, {8: Correction(T, scale)}).movers
    assert np.allclose(moved.track[:, 1:], scale * movers[0].track[:, 1:] @ T[:3, :3].T + T[:3, 3])
    assert np.allclose(moved.place(0.7), T[:3, :3] @ (scale * movers[0].place(0.7)) + T[:3, 3], atol=0.3 * (scale - 1))
    assert np.allclose(moved.size, scale * movers[0].size, rtol=1e-4)
    assert repose_world(state, {7: Correction(T)}).movers[0] is movers[0]


def test_a_world_in_which_nothing_moves_is_the_same_to_the_bit():
    model = walled_world_model()
    without = replace(model, config=replace(model.config, memory=MemoryConfig(movers=0)))
    states = [m.start(picture(1), seed=2)[1] for m in (model, without)]
    chunks, after = zip(
        *(m.step(s, path(s.camera)) for m, s in zip((model, without), states, strict=True)), strict=True
    )
    assert torch.equal(chunks[0].frames, chunks[1].frames)
    assert torch.equal(chunks[0].keep, chunks[1].keep)
    assert chunks[0].keep.any()
    assert after[0].memory.points == after[1].memory.points


def test_a_step_shows_movers_and_writes_no_thing_where_it_does():
    label = torch.full((32, 32), STATIC)
    label[8:24, 8:24] = MOVER
    model = walled_world_model(label)
    _, state = model.start(picture(1), seed=2)
    assert len(state.movers) == 1
    chunk, after = replace(model, segmenter=Labels()).step(state, path(state.camera, turn=0.02, forward=0.05))
    there = torch.from_numpy(chunk.movers >= 0)
    assert there.any()
    assert (chunk.readout.observed[there] == 1).all()
    assert not (chunk.keep & there).any()
    assert chunk.keep.any()
    assert [m.unseen for m in after.movers] == [len(chunk.cameras) / model.config.frames_per_second]
    observed, gone = replace(model, segmenter=Labels()).observe(state, [picture(1)], [state.camera])
    assert gone.movers == ()
    assert (observed.keep & torch.from_numpy(observed.movers >= 0)).any()
