"""Movers drawn over frames: the very picture of them, where they should be, hidden by what stands before them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import PAINTED, Grey, Labels, Plane, truly_seen, without_pictures
from tiny import tiny_world_model
from torch.nn import functional as F
from worlds import KEEP_ALL

from mirage_env.camera import Camera
from mirage_env.config.world import MemoryConfig
from mirage_env.interfaces import MOVER
from mirage_env.memory.behind_movers import Cuttings, filled
from mirage_env.memory.mover_portraits import MOST_CELLS, portrait_of
from mirage_env.memory.mover_sightings import sightings
from mirage_env.memory.movers import with_movers
from mirage_env.memory.reposing import Correction, repose_world
from mirage_env.memory.true_views import kept_picture, of_last_view
from mirage_env.memory.view_drawings import ViewDrawings
from mirage_env.models.small.refiner import BareReadout
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.store import load_world, save_world

SIDE, CELLS, WALL, NEAR = 64, 8, 3.0, 2.0
CAMERA = Camera.from_fov(1.2, SIDE, SIDE)
FOCAL = float(CAMERA.K_image[0, 0])
CLOSE = 0.03
"""Features are kept in 8 bits."""


class Pixels:
    """Latents are the pixels of cells: nothing is lost (`LatentCodec`)."""

    def encode(self, images):
        return F.pixel_unshuffle(images, SIDE // CELLS)

    def decode(self, latents):
        return F.pixel_shuffle(latents, SIDE // CELLS)

    def encode_chunk(self, frames, first):
        return self.encode(frames)

    def decode_chunk(self, latents, first):
        return self.decode(latents)


TINY = tiny_world_model()


def drawing_model(mirrored=False, **changes):
    memory = MemoryConfig(shifts=2, mirrored=mirrored, drawn=True, **changes)
    sizes = {"image_size": (SIDE, SIDE), "latent_size": (CELLS, CELLS), "latent_channels": 3 * (SIDE // CELLS) ** 2}
    config = replace(TINY.config, **sizes, memory=memory, filters=replace(KEEP_ALL, dynamic_share=0.1))
    parts = {
        "codec": Pixels(),
        "refiner": BareReadout(),
        "generator": Grey(),
        "depth": Plane(WALL),
        "segmenter": Labels(torch.zeros(SIDE, SIDE, dtype=torch.long)),
    }
    return replace(TINY, config=config, drawings=ViewDrawings(), **parts)


MODEL = drawing_model()
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] + 0.5
BALL = (ROWS - 31.0) ** 2 + (COLUMNS - 29.0) ** 2 < 10.0**2
BEHIND = np.stack([90 + 60 * np.sin(COLUMNS / 5.0), 90 + 60 * np.cos(ROWS / 6.0), 90 + ROWS], -1).astype(np.uint8)
ON_IT = np.stack([250 - 2 * ROWS, 120 + COLUMNS, 5 * (COLUMNS - ROWS) + 100], -1).clip(0, 255).astype(np.uint8)
IMAGE = np.where(BALL[..., None], ON_IT, BEHIND)


def pixels(image):
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 127.5 - 1.0


def begun(model=MODEL, ball=BALL, image=IMAGE):
    """A world that begins with a ball before a wall."""
    return model.start(image, CAMERA, np.where(ball, NEAR, WALL), labels=np.where(ball, MOVER, 0))[1]


STATE = begun()
(BALL_OF_STATE,) = STATE.movers
PLACE = BALL_OF_STATE.place()
KEPT = kept_picture(STATE.memory)
"""`IMAGE` as a memory keeps it: JPEG bends edges a little."""
BENT = 4 * CLOSE


def shown(state, *cameras, model=MODEL, readout=None):
    """Frames of such cameras over a grey one."""
    known = state.memory.read(cameras, state.chunk + 1) if readout is None else readout
    known, movers = with_movers(known, state.movers, cameras, np.zeros(len(cameras)), model.config)
    frames = torch.full((len(cameras), 3, SIDE, SIDE), PAINTED)
    return model.drawings.over(frames, model, state, cameras, known, movers)


def at(place, state=STATE, ball=None):
    """The world whose ball is somewhere else."""
    ball = state.movers[0] if ball is None else ball
    there = np.hstack([ball.track[:, :1], ball.track[:, 1:] - ball.place() + place])
    return replace(state, movers=(replace(ball, track=there),))


def wide(mask, by):
    return F.max_pool2d(torch.from_numpy(mask.copy())[None].float(), 2 * by + 1, 1, by)[0] > 0


def moved(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return CAMERA.moved(pose_from_rotation_vector([x, y, z], [0.0, yaw, 0.0]))


def around(angle):
    """A camera that has gone around the ball, at the distance and height of the first."""
    turn = pose_from_rotation_vector([0, 0, 0], [0.0, angle, 0.0])
    T = CAMERA.T_world_cam.copy()
    T[:3, :3], T[:3, 3] = turn[:3, :3] @ T[:3, :3], PLACE + turn[:3, :3] @ (T[:3, 3] - PLACE)
    return CAMERA.at(T)


# What is drawn


def test_the_start_camera_shows_a_mover_and_its_outline_as_the_picture_does():
    assert (KEPT - pixels(IMAGE)).abs().mean() < CLOSE / 2
    error = (shown(STATE, CAMERA)[0] - KEPT).abs()
    assert error[:, ~wide(~BALL, 1)].max() < 1e-4  # as the picture has it
    assert error[:, ~wide(BALL, 5)].max() < CLOSE
    decoded = replace(STATE, memory=without_pictures(STATE.memory))
    assert (shown(decoded, CAMERA)[0] - pixels(IMAGE)).abs()[:, ~wide(~BALL, 1)].max() < 1e-4  # as the codec has it
    assert -10 * torch.log10((error[:, torch.from_numpy(BALL)] ** 2).mean() / 4) > 25.0


@pytest.mark.parametrize("kept", [True, False])
def test_a_mover_of_a_later_view_looks_as_in_the_picture_of_that(kept):
    camera, labels = moved(yaw=0.9), np.where(BALL, MOVER, 0)
    state = MODEL.observe(STATE, [IMAGE], [camera], [np.where(BALL, NEAR, WALL)], [labels])[1]
    picture = kept_picture(of_last_view(state.memory, 1))
    state = replace(state, movers=tuple(mover for mover in state.movers if mover.portrait.frame == 1))
    state = state if kept else replace(state, memory=without_pictures(state.memory))
    error = (shown(state, camera)[0] - (picture if kept else pixels(IMAGE))).abs()
    assert error[:, ~wide(~BALL, 1)].max() < 1e-4


def test_views_that_wrote_nothing_have_no_tokens():
    assert of_last_view(STATE.memory, 7).points == 0
    assert of_last_view(STATE.memory, 0).points == STATE.memory.points
    cells = F.avg_pool2d(torch.from_numpy(BALL)[None].float(), 8)
    assert ((cells > 0.0) & (cells < 0.35)).any()  # which are nobody's tokens
    unportrayed = replace(STATE, movers=(replace(BALL_OF_STATE, portrait=None),))
    assert (shown(unportrayed, CAMERA)[0] - pixels(IMAGE)).abs()[:, torch.from_numpy(BALL)].max() > 0.1


@given(right=st.integers(-16, 16), nearer=st.sampled_from([1.0, 1.25, 1.6]))
def test_it_is_drawn_where_its_place_is_and_nothing_of_the_background_travels_with_it(right, nearer):
    place = (PLACE + np.array([right * NEAR / FOCAL, 0.0, 0.0])) / nearer  # on the same ray, so as large as it is near
    frame, without = (shown(state, CAMERA)[0] for state in (at(place), at([0.0, 0.0, -9.0])))
    if nearer == 1.0:
        mine, wanted = torch.from_numpy(np.roll(BALL, right, 1)), KEPT.roll(right, 2)
        assert (frame - wanted).abs()[:, ~wide(~mine.numpy(), 1)].mean() < 0.01
        rest = ~wide(mine.numpy(), 3)
        assert (frame - without).abs()[:, rest].max() < 0.01
        assert (frame - KEPT).abs()[:, rest & ~wide(BALL, 5)].max() < CLOSE
    else:
        there = (frame - without).abs().amax(0) > 0.05
        assert float(there.sum()) == pytest.approx(np.pi * (10.0 + 1.0) ** 2 * nearer**2, rel=0.1)


def test_who_goes_around_it_sees_the_same_side_upright():
    for angle in (0.4, -1.2, 2.5):
        with_it, without = (shown(state, around(angle))[0] for state in (STATE, at([0.0, 0.0, -99.0])))
        there = (with_it - without).abs().amax(0) > 0.02
        assert (there & torch.from_numpy(BALL)).sum() > 0.97 * BALL.sum()
        assert not (there & ~wide(BALL, 2)).any()
        assert (with_it - pixels(IMAGE)).abs()[:, ~wide(~BALL, 1)].mean() < 0.02


@pytest.mark.parametrize(("metres", "hidden"), [(2.5, False), (2.9, False), (3.6, True)])
def test_behind_a_wall_of_the_start_view_it_is_hidden(metres, hidden):
    behind, nowhere = (shown(state, CAMERA)[0] for state in (at(PLACE * metres / NEAR), at([0.0, 0.0, -9.0])))
    assert torch.equal(behind, nowhere) == hidden


@pytest.mark.parametrize(
    ("metres", "true", "hidden"), [(1.0, True, True), (1.0, False, False), (2.5, True, False), (2.5, False, False)]
)
def test_behind_what_was_truly_seen_since_it_is_hidden_and_not_behind_echoes_of_what_is_drawn(metres, true, hidden):
    state = replace(STATE, memory=truly_seen(STATE.memory, 2 if true else 1))
    later = STATE.memory.read([CAMERA], 1)
    later = replace(later, age=0.0 * later.age, depth=0.0 * later.depth + metres, observed=0.0 * later.observed + 1.0)
    wall, first = shown(state, CAMERA, readout=later)[0], shown(STATE, CAMERA)[0]
    same = ((wall - first).abs().amax(0) < 1e-6)[~wide(~BALL, 1)]
    assert not same.any() if hidden else same.all()


@pytest.mark.parametrize(("metres", "hidden"), [(1.0, True), (2.5, False)])
def test_where_nothing_is_drawn_it_is_hidden_by_what_was_imagined(metres, hidden):
    camera = moved(yaw=2.5)
    state = at(camera.position + 2.0 * camera.T_world_cam[:3, 2])
    nothing = state.memory.read([camera], 1)
    assert not nothing.observed.any()
    wall = replace(nothing, depth=0.0 * nothing.depth + metres, observed=0.0 * nothing.observed + 1.0)
    same = (shown(state, camera, readout=wall)[0] == PAINTED).all()
    assert same == hidden


def test_what_stands_on_the_floor_before_its_plane_is_not_hidden_by_the_floor():
    """A ball that lies before a cart, which is taken for a part of it, would be below the floor at the cart's depth."""

    class Floor:
        def estimate(self, images, cameras, known=None):
            return floor[None].expand(len(images), -1, -1)

    floor = torch.from_numpy(np.minimum(FOCAL / np.maximum(ROWS - SIDE / 2, 1e-3), WALL)).float()
    both = BALL | (np.hypot(ROWS - 50.0, COLUMNS - 29.0) < 9.0)
    model, depth = replace(drawing_model(), depth=Floor()), np.where(both, NEAR, floor)
    state = model.start(IMAGE, CAMERA, depth, labels=np.where(both, MOVER, 0))[1]
    assert floor[58, 29] < 0.9 * NEAR
    assert len(state.movers) == 1
    image = KEPT[:, ~wide(~both, 1)]
    assert (shown(state, CAMERA, model=model)[0][:, ~wide(~both, 1)] - image).abs().max() < 0.01


def test_of_two_movers_the_nearer_is_seen_whole():
    far = replace(BALL_OF_STATE, track=at(PLACE * 1.3 + np.array([0.5, 0.0, 0.0])).movers[0].track)
    alone = shown(STATE, CAMERA)[0][:, ~wide(~BALL, 1)]
    for movers in ((BALL_OF_STATE, far), (far, BALL_OF_STATE)):
        both = shown(replace(STATE, movers=movers), CAMERA)[0]
        assert torch.equal(both[:, ~wide(~BALL, 1)], alone)
        assert not torch.allclose(both, shown(STATE, CAMERA)[0], atol=0.1)


def test_tokens_are_turned_to_who_looks_as_the_picture_is():
    """What frames show of a mover are cells in which the readout shows it: else it would be a second one."""
    beside = around(1.4)
    cells = with_movers(STATE.memory.read([beside], 1), STATE.movers, [beside], np.zeros(1), MODEL.config)[1][0] >= 0
    plain = (replace(BALL_OF_STATE, portrait=None),)
    narrow = with_movers(STATE.memory.read([beside], 1), plain, [beside], np.zeros(1), MODEL.config)[1][0] >= 0
    covered = F.avg_pool2d(torch.from_numpy(BALL)[None].float(), 8)[0].numpy() > 0.5
    assert cells[covered].all()
    assert narrow.sum() < 0.7 * cells.sum()


def test_in_a_frame_it_is_where_its_time_says():
    track = np.array([[1.0 - 0.2 * i, *(PLACE + np.array([0.1 * i, 0.0, 0.0]))] for i in range(6)])
    state = replace(STATE, movers=(replace(BALL_OF_STATE, track=track),))
    cameras = [moved(x=1e-4 * i) for i in range(1, 5)]
    frames = MODEL.step(state, cameras)[0].frames
    for i, frame in enumerate(frames):
        ahead = state.movers[0].place((i + 1) / MODEL.config.frames_per_second)
        still = shown(at(ahead), CAMERA)[0]
        assert ahead[0] > PLACE[0] + 0.5
        assert (frame - still).abs().max() < 0.02
    assert not torch.allclose(frames[0], frames[3], atol=0.2)


# What is kept of it


def test_a_portrait_has_all_cells_that_a_mover_touches_and_one_more_on_every_side():
    portrait, cells = BALL_OF_STATE.portrait, F.max_pool2d(torch.from_numpy(BALL)[None].float(), 8)[0] > 0
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    assert portrait.feature.shape[:2] == (np.ptp(rows) + 3, np.ptp(columns) + 3)
    top, left = 8 * (rows[0] - 1), 8 * (columns[0] - 1)
    assert np.array_equal(portrait.outline, BALL[top:, left:][: len(portrait.outline), : portrait.outline.shape[1]])
    assert portrait.frame == 0
    laid = Cuttings.of([portrait], CAMERA, (CELLS, CELLS))
    assert np.array_equal(laid.outline[0, 0].numpy(), BALL)
    elsewhere = Camera(CAMERA.T_world_cam, CAMERA.K_image - 20.0 * np.eye(3, k=2), SIDE, SIDE)
    assert not Cuttings.of([portrait], elsewhere, (CELLS, CELLS)).cells.any()


def test_what_is_too_large_or_nowhere_has_no_portrait():
    half = torch.zeros(512, 512, dtype=torch.bool)
    assert portrait_of(torch.zeros(3, 64, 64), half, CAMERA, PLACE) is None
    half[:, :256] = True
    assert 64 * 33 > MOST_CELLS
    assert portrait_of(torch.zeros(3, 64, 64), half, CAMERA, PLACE) is None
    half[256:] = False
    half[:, 200:] = False
    assert portrait_of(torch.zeros(3, 64, 64), half, CAMERA, PLACE).feature.shape == (33, 26, 3)


def test_every_mover_of_a_view_has_its_own_pixels_and_imagined_ones_none():
    labels = np.where(BALL, MOVER, 0)
    labels[34:60, 50:60] = MOVER
    labels[4:20, 28:30] = MOVER  # too narrow for a token, but in one piece with the ball
    labels[20:22, 28:30] = MOVER
    views = torch.zeros(4, 3, CELLS, CELLS), torch.full((1, SIDE, SIDE), NEAR), torch.from_numpy(labels)[None]
    found = sightings(*views, [CAMERA], 0.1, 20.0, portraits=True)[0]
    assert len(found) == 2
    outlines = [Cuttings.of([s.portrait], CAMERA, (CELLS, CELLS)).outline[0, 0].numpy() for s in found]
    assert not (outlines[0] & outlines[1]).any()
    assert np.array_equal(outlines[0] | outlines[1], labels == MOVER)
    assert all(s.portrait is None for s in sightings(*views, [CAMERA], 0.1, 20.0)[0])


def test_imagined_views_change_nothing_of_it_and_true_ones_take_it_anew():
    state = MODEL.step(MODEL.step(STATE, [moved(x=0.02)] * 4)[1], [moved(x=0.04)] * 4)[1]
    assert [m.portrait for m in state.movers] == [BALL_OF_STATE.portrait]
    labels, depth = np.where(BALL, MOVER, 0), np.where(BALL, NEAR, WALL)
    seen = MODEL.observe(state, [IMAGE[::-1].copy()], [CAMERA], [depth[::-1]], [labels[::-1]])[1]
    (ball,) = seen.movers
    assert ball.portrait.frame == seen.memory.frames - 1 > 0
    where = Cuttings.of([ball.portrait], CAMERA, (CELLS, CELLS)).outline[0, 0].numpy()
    assert np.array_equal(where, BALL[::-1])


@pytest.mark.parametrize("scale", [1.0, 1.4])
def test_a_corrected_frame_takes_the_portrait_along(scale):
    T = pose_from_rotation_vector([0.4, 0.1, -0.3], [0.0, 0.5, 0.0])
    (ball,) = repose_world(STATE, {0: Correction(T, scale)}).movers
    R = T[:3, :3]
    assert np.allclose(ball.portrait.camera.position, scale * R @ BALL_OF_STATE.portrait.camera.position)
    assert np.allclose(ball.place() + ball.portrait.camera.position, T[:3, 3], atol=1e-6)
    assert np.allclose(ball.portrait.camera.T_world_cam[:3, :3], R)


@given(
    level=st.tuples(st.floats(-3, 3), st.floats(-3, 3)).filter(lambda p: np.hypot(*p) > 0.1), height=st.floats(-2, 2)
)
def test_facing_turns_about_the_upright_alone(level, height):
    portrait, viewer = BALL_OF_STATE.portrait, np.array([level[0], height, level[1]])
    R = portrait.facing(viewer)
    assert np.allclose(R @ R.T, np.eye(3))
    assert np.allclose(R @ portrait.up, portrait.up)
    turned, wanted = (R @ portrait.camera.position)[[0, 2]], viewer[[0, 2]]
    assert np.allclose(turned / np.linalg.norm(turned), wanted / np.linalg.norm(wanted))
    assert np.allclose(portrait.facing(portrait.camera.position), np.eye(3))
    assert np.array_equal(portrait.facing(5.0 * portrait.up), np.eye(3))


# What is behind it


@pytest.mark.parametrize("ball", [BALL, np.hypot(ROWS - 31.0, COLUMNS - 31.0) < 22.0])
def test_where_it_stood_the_wall_goes_on(ball):
    striped = np.where(ROWS[..., None] % 16 < 8, 200, np.array([40, 90, 140])).astype(np.uint8)
    state = at([0.0, 0.0, -9.0], begun(ball=ball, image=np.where(ball[..., None], ON_IT, striped)))
    error = (shown(state, CAMERA)[0] - pixels(striped)).abs()
    assert (error.max() < BENT) & (error.mean() < CLOSE / 2)


def test_a_hole_is_filled_from_both_sides_and_the_rest_stays():
    image, hole = torch.rand(3, 4, 20), torch.zeros(4, 20, dtype=torch.bool)
    hole[0, 5:9], hole[1, :3], hole[2, 17:], hole[3] = True, True, True, True
    after = filled(image, hole)
    assert torch.equal(after[:, ~hole], image[:, ~hole])
    assert torch.equal(after[:, 1, :3], image[:, 1, 3:6].flip(-1))
    assert torch.equal(after[:, 2, 17:], image[:, 2, 14:17].flip(-1))
    assert torch.equal(after[:, 3], image[:, 3])
    share = torch.tensor([1, 2, 3, 4]) / 5
    expected = (1 - share) * image[:, 0, 1:5].flip(-1) + share * image[:, 0, 9:13].flip(-1)
    assert torch.allclose(after[:, 0, 5:9], expected)
    two = torch.zeros(1, 20, dtype=torch.bool)
    two[0, [5, 6, 7, 9, 10, 11]] = True
    assert torch.allclose(filled(torch.ones(3, 1, 20), two), torch.ones(3, 1, 20))


# Worlds


@pytest.mark.parametrize("seen_again", [False, True])
def test_a_saved_world_and_a_copy_go_on_with_the_bits_of_the_one_in_memory(tmp_path, seen_again):
    model = drawing_model(mirrored=True)
    ahead = [[moved(x=0.1 * i + 0.02 * j) for j in range(4)] for i in range(1, 4)]
    state = model.step(begun(model), ahead[0])[1]
    if seen_again:
        state = model.observe(state, [IMAGE], [CAMERA], [np.where(BALL, NEAR, WALL)], [np.where(BALL, MOVER, 0)])[1]
        assert state.movers[0].portrait.frame > 0
    save_world(tmp_path / "world.zarr", state, model)
    expected = model.step(model.step(state, ahead[1])[1], ahead[2])[0].frames
    for again in (load_world(tmp_path / "world.zarr", model), copy.deepcopy(state)):
        other = replace(model, drawings=ViewDrawings())
        frames = other.step(other.step(again, ahead[1])[1], ahead[2])[0].frames
        assert torch.equal(frames, expected)


def test_worlds_are_the_same_alone_and_in_a_batch():
    other = begun(ball=BALL[::-1], image=IMAGE[::-1].copy())
    paths = [[moved(x=0.03 * i) for i in range(1, 5)], [moved(z=0.1 * i) for i in range(1, 5)]]
    together = MODEL.step_batch([STATE, other], paths)[0]
    for state, path, chunk in zip((STATE, other), paths, together, strict=True):
        assert torch.equal(MODEL.step(state, path)[0].frames, chunk.frames)


def test_pictures_are_forgotten_with_their_movers():
    model = drawing_model()
    state = begun(model)
    shown(state, CAMERA, model=model)
    assert len(model.drawings._movers._made) == 1
    state = replace(state, movers=())
    shown(state, CAMERA, model=model)
    assert not model.drawings._movers._made
