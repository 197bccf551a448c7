"""True views drawn over frames: pixel by pixel, the nearest first, and the painted bits where none shows anything."""

import copy
import gc
import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import PAINTED, Grey, Labels, Plane, true_rows, without_pictures
from tiny import tiny_world_model
from torch.nn import functional as F
from worlds import KEEP_ALL

from mirage_env.camera import Camera
from mirage_env.config.world import MemoryConfig
from mirage_env.interfaces import MOVER, SKY, Readout
from mirage_env.memory import view_drawings
from mirage_env.memory.beyond_outlines import PURE
from mirage_env.memory.mirror_images import mirrored_cameras
from mirage_env.memory.mirrored import start_of
from mirage_env.memory.rgb import RgbMemory
from mirage_env.memory.seen_views import GAP, SeenView
from mirage_env.memory.true_views import kept_picture, nearest_views, of_view
from mirage_env.memory.view_drawings import KEPT, MOST, ViewDrawings
from mirage_env.memory.view_mesh import ViewMesh
from mirage_env.models.small.refiner import BareReadout
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.store import load_world, save_world

CAMERA = Camera.from_fov(1.2, 32, 32)
FOCAL = float(CAMERA.K_image[0, 0])
METRES = 2.0


class Colours:
    """Latents are the mean colours of cells (`LatentCodec`)."""

    def encode(self, images):
        return F.avg_pool2d(images, 8)

    def decode(self, latents):
        return F.interpolate(latents, scale_factor=8)

    def encode_chunk(self, frames, first):
        return self.encode(frames)

    def decode_chunk(self, latents, first):
        return self.decode(latents)


TINY = tiny_world_model()


def drawing_model(sky=0.0, mirrored=False, drawn=True, **parts):
    """A model whose pictures are colours of cells and whose generator paints grey."""
    memory = MemoryConfig(shifts=2, sky=sky, mirrored=mirrored, drawn=drawn)
    config = replace(TINY.config, latent_channels=3, memory=memory, filters=KEEP_ALL)
    usual = {
        "codec": Colours(),
        "refiner": BareReadout(),
        "generator": Grey(),
        "depth": Plane(METRES),
        "segmenter": Labels(),
    }
    return replace(TINY, config=config, drawings=ViewDrawings(), **{**usual, **parts})


def real_model(**changes):
    """The tiny networks, whose readout is shown as it is stored."""
    memory = MemoryConfig(shifts=2, sky=100.0, mirrored=True, drawn=True)
    config = replace(TINY.config, memory=replace(memory, **changes), filters=KEEP_ALL)
    return replace(TINY, config=config, refiner=BareReadout(), drawings=ViewDrawings())


MODEL = drawing_model()
CELLS = np.random.default_rng(0).integers(40, 216, (4, 4, 3), dtype=np.uint8)
IMAGE = CELLS.repeat(8, 0).repeat(8, 1)
PICTURE = torch.from_numpy(IMAGE).permute(2, 0, 1).float() / 127.5 - 1.0
STORED = 0.02
"""Colours are kept in 8 bits."""


def begun(model=MODEL, depth=None, labels=None, image=IMAGE):
    """A world that begins before a wall."""
    depth = np.full((32, 32), METRES) if depth is None else depth
    return model.start(image, CAMERA, depth, labels=np.zeros((32, 32), np.int64) if labels is None else labels)[1]


def moved(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return CAMERA.moved(pose_from_rotation_vector([x, y, z], [0.0, yaw, 0.0]))


def aside(pixels):
    """A camera before which the wall is shifted to the left by so many pixels."""
    return moved(x=pixels * METRES / FOCAL)


def stepped(state, camera, model=MODEL):
    return model.step(state, [camera] * 4)[0].frames[-1]


def over(state, cameras, model=MODEL, readout=None, movers=None, frames=None):
    """The frames of such cameras, which were painted at random, and those with the start view drawn over them."""
    size = (len(cameras), 3, 32, 32)
    frames = torch.rand(size, generator=torch.Generator().manual_seed(0)) - 0.5 if frames is None else frames
    readout = state.memory.read(cameras, state.chunk + 1) if readout is None else readout
    movers = np.full(readout.observed.shape, -1, np.int32) if movers is None else movers
    return frames, model.drawings.over(frames, model, state, cameras, readout, movers)


def told(age=0.0, observed=1.0, views=1):
    """A readout that tells the same everywhere."""
    age, observed = (torch.full((views, 4, 4), float(x)) for x in (age, observed))
    depth = torch.full_like(age, METRES)
    return Readout(torch.zeros(views, 3, 4, 4), observed, depth, torch.zeros(views, 2, 4, 4), 0.0 * age, age)


# What is drawn


def test_the_start_camera_shows_the_start_view_to_its_very_borders():
    state = begun()
    assert (stepped(state, CAMERA) - PICTURE).abs().max() < STORED
    painted, shown = over(state, [CAMERA, CAMERA])
    assert (shown - PICTURE).abs().max() < STORED
    assert not torch.allclose(painted, shown, atol=0.1)


@torch.no_grad()
def test_with_real_networks_the_start_camera_shows_the_picture_and_without_one_what_tokens_say():
    model = real_model()
    state = begun(model)
    assert (stepped(state, CAMERA, model) - PICTURE).abs().max() < STORED
    start = start_of(state.memory, model.codec, model.refiner, model.config)
    expected = model.codec.decode(start.readout.latent)[0]
    assert (start.readout.observed > 0).all()
    bare = replace(state, memory=without_pictures(state.memory))
    assert (stepped(bare, CAMERA, model) - expected.clamp(-1.0, 1.0)).abs().max() < 0.01
    plain = replace(model, config=real_model(drawn=False).config)
    assert not torch.allclose(stepped(state, CAMERA, plain), expected, atol=0.01)


@pytest.mark.parametrize("estimated", [METRES, 1.5 * METRES, 0.7 * METRES])
@given(pixels=st.integers(-20, 20).filter(lambda n: abs(n) not in (1, 2)))  # so narrow a gap is closed
def test_from_aside_the_picture_is_shifted_as_its_true_depth_says_and_beyond_it_frames_keep_their_bits(
    estimated, pixels
):
    model = MODELS[estimated]
    painted, shown = over(world(), [aside(pixels)], model)
    there = torch.arange(32) + pixels
    inside = (there >= 0) & (there < 32)
    sure = inside & ((there >= 2) | (pixels >= 0)) & ((there < 30) | (pixels <= 0))
    assert (shown[0][..., sure] - PICTURE[..., there[sure]]).abs().max() < 2 * STORED
    assert torch.equal(shown[0][..., ~inside], painted[0][..., ~inside])


@cache
def world():
    """A world that every test may look at."""
    return begun()


MODELS = {metres: drawing_model(depth=Plane(metres)) for metres in (METRES, 1.5 * METRES, 0.7 * METRES)}


def test_who_looks_the_other_way_sees_what_was_painted_bit_by_bit():
    painted, shown = over(world(), [moved(yaw=3.1), moved(yaw=2.0)])
    assert torch.equal(painted, shown)


def test_what_is_guessed_beside_the_view_is_drawn_where_the_model_mirrors():
    model = drawing_model(mirrored=True)
    state = begun(model)
    for flip, camera in mirrored_cameras(CAMERA)[:1]:
        shown = over(state, [camera], model)[1][0]
        assert (shown.flip(flip) - PICTURE).abs().median() < STORED
    turned = over(state, [moved(yaw=0.6)], model)
    assert not torch.isclose(*turned).all(1).any()


def test_a_little_thing_that_moved_in_the_start_view_is_not_drawn_nor_its_blurred_outline():
    labels = np.zeros((32, 32), np.int64)
    labels[10:15, 18:23] = MOVER
    model = drawing_model(segmenter=Labels(torch.from_numpy(labels)))
    painted, shown = over(begun(model), [CAMERA], model)
    same = torch.isclose(painted, shown).all(1)[0]
    assert torch.equal(painted[0, :, 8:17, 16:25], shown[0, :, 8:17, 16:25])
    same[8:17, 16:25] = False
    assert not same.any()


def test_specks_of_movers_make_no_holes():
    labels = np.zeros((32, 32), np.int64)
    labels[10:14, 18:22] = labels[20:24, 4:8] = MOVER
    model = drawing_model(segmenter=Labels(torch.from_numpy(labels)))
    painted, shown = over(begun(model), [CAMERA], model)
    assert not torch.isclose(painted, shown).all(1).any()


# Off


def unpinned(state):
    return replace(state, memory=replace(state.memory, blocks=(_later(state),)))


def _later(state):
    return replace(state.memory.blocks[0], born=state.memory.blocks[0].born + 1)


def empty(state):
    return replace(state, memory=replace(state.memory, blocks=()))


def joined(state):
    block = state.memory.blocks[0]
    return replace(state, memory=replace(state.memory, blocks=(replace(block, frames=_several(block.frames)),)))


def _several(frames):
    return replace(frames, row=np.arange(len(frames.row), dtype=np.int32))


@pytest.mark.parametrize("case", ["off", "colours", "empty", "no start view", "several"])
def test_other_models_and_memories_are_left_alone(case, monkeypatch):
    monkeypatch.setattr(SeenView, "of", lambda *_: pytest.fail("drawn"))
    model = drawing_model(drawn=case != "off")
    model = replace(model, memory_factory=RgbMemory.factory(model.codec)) if case == "colours" else model
    change = {"empty": empty, "no start view": unpinned, "several": joined}.get(case, lambda state: state)
    state = change(begun(model))
    painted, shown = over(state, [CAMERA], model)
    assert shown is painted


def test_off_a_world_walks_as_if_there_were_no_drawings(monkeypatch):
    model, views = real_model(drawn=False), [aside(i) for i in range(1, 5)]
    state = begun(model)
    frames = model.step(state, views)[0].frames
    monkeypatch.setattr(ViewDrawings, "over", lambda _, frames, *rest: frames)
    on = real_model()
    assert torch.equal(on.step(state, views)[0].frames, frames)
    assert torch.equal(model.step(state, views)[0].frames, frames)


# What moves, and what is known better


def test_cells_that_show_a_mover_stay_as_they_were_painted():
    movers = np.full((2, 4, 4), -1, np.int32)
    movers[0, 1:3, 1] = 0
    painted, shown = over(world(), [CAMERA] * 4, readout=told(views=2), movers=movers)  # two frames of each latent
    for i in range(4):
        assert torch.equal(shown[i, :, 8:24, 8:16], painted[i, :, 8:24, 8:16]) == (i < 2)
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[6:26, 6:18] = False
    assert (shown[:2] - PICTURE)[..., outside].abs().max() < STORED
    assert (shown[2:] - PICTURE).abs().max() < STORED


def test_a_guess_gives_way_to_what_was_truly_seen_there(monkeypatch):
    model = drawing_model(mirrored=True)
    state, view = begun(model), mirrored_cameras(CAMERA)[0][1]
    seen, imagined = looked(state, view, 30, METRES, model), model.step(state, [view] * 4)[1]
    beside = view.moved(pose_from_rotation_vector([METRES / FOCAL, 0.0, 0.0], [0.0, 0.0, 0.0]))
    assert (over(seen, [beside], model)[1][..., :-4] - grey(30)).abs().max() < STORED
    monkeypatch.setattr(view_drawings, "nearest_views", lambda *_: [0])  # as if nearer ones had been drawn
    for after, better in ((seen, True), (imagined, False)):
        painted, shown = over(after, [beside], model)
        assert torch.isclose(painted, shown).all(1).float().mean().round() == better


def test_what_cameras_truly_saw_is_drawn_and_what_was_imagined_is_not():
    state, near = begun(), moved(z=1.2)
    seen = looked(state, near, 30)
    assert (true_rows(state.memory), true_rows(seen.memory)) == ([0], [0, 1])
    assert (stepped(seen, moved(x=0.05, z=1.2))[..., :-4] - grey(30)).abs().max() < STORED
    assert (stepped(seen, near) - grey(30)).abs().max() < STORED
    assert (stepped(seen, CAMERA) - PICTURE).abs().max() < 2 * STORED
    imagined = MODEL.step(MODEL.step(state, [near] * 4)[1], [near] * 4)[1]
    assert true_rows(imagined.memory) == [0]
    assert torch.equal(stepped(imagined, near), stepped(state, near))
    assert not (stepped(imagined, near) == PAINTED).any()


def test_of_two_views_the_nearer_one_is_drawn_and_where_it_shows_nothing_the_other():
    state, wall = looked(begun(), aside(18), 30), torch.arange(50)
    for pixels in (4, 7, 11, 14):
        shown = over(state, [aside(pixels)])[1][0]
        there = wall[pixels : pixels + 32]
        end = 32 if pixels < 9 else 18  # of what the start view shows first
        ours, theirs = there < end - 2, there > end + 2
        assert (shown[..., ours] - PICTURE[..., there[ours]]).abs().max() < 2 * STORED
        assert (shown[..., theirs] - grey(30)).abs().max() < STORED
    frames = over(state, [CAMERA, aside(19), CAMERA])[1]  # every frame has an order of its own
    assert torch.equal(frames[0], frames[2])
    assert (frames[1, ..., :-4] - grey(30)).abs().max() < STORED


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_what_was_truly_seen_to_stand_nearer_hides_other_views_where_it_is_broad(cells):
    state, readout = looked(begun(), aside(18), 30), told(age=1.0)
    readout.offset[:] = 0.4  # seen from aside
    readout.depth[0, :, 1 : 1 + cells] = METRES / 2
    painted, shown = over(state, [aside(4)], readout=readout)
    same = torch.isclose(painted, shown).all(1)[0]
    assert same[:, 10:30].all() if cells == 3 else not same.any()


def test_blocks_out_of_view_are_not_read():
    state = begun()
    block = state.memory.blocks[0]
    unread = SimpleNamespace(bounds=block.bounds - 1e4)  # as of a world that lies in a file
    far = replace(state, memory=replace(state.memory, blocks=(block, unread)))
    assert torch.equal(*(over(s, [CAMERA], readout=told(age=1.0))[1] for s in (far, state)))


def test_a_view_is_drawn_without_the_movers_that_it_has_portraits_of(monkeypatch):
    made, make = {}, SeenView.of

    def noted(model, memory, portraits):
        made[int(memory.blocks[0].frames.row[0])] = [portrait.frame for portrait in portraits]
        return make(model, memory, portraits)

    monkeypatch.setattr(SeenView, "of", staticmethod(noted))
    model, labels = drawing_model(), np.zeros((32, 32), np.int64)
    model = replace(model, config=replace(model.config, memory=replace(model.config.memory, movers=4)))
    labels[8:24, 8:24] = MOVER
    view, depth = np.full((32, 32, 3), 30, np.uint8), np.full((32, 32), METRES)
    state = model.observe(begun(model), [view], [aside(18)], [depth], [labels])[1]
    assert [mover.portrait.frame for mover in state.movers] == [1]
    over(state, [aside(19)], model)
    assert made == {0: [], 1: [1]}


def test_cells_that_an_observed_view_did_not_write_are_not_drawn():
    metres = np.full((32, 32), METRES)
    metres[8:16, 16:24] = 0.0  # not measured
    state = looked(begun(), aside(18), 30, metres)
    painted, shown = over(state, [aside(19)])
    same = torch.isclose(painted, shown).all(1)[0]
    assert same[9:15, 16:22].all()
    same[7:17, 14:24] = False
    assert not same[:, :-4].any()


def looked(state, camera, value, metres=None, model=MODEL):
    """The world after a camera saw a grey wall."""
    view = np.full((32, 32, 3), value, np.uint8)
    depth = np.full((32, 32), METRES - float(camera.position[2]) if metres is None else metres)
    return model.observe(state, [view], [camera], [depth])[1]


def grey(value):
    return value / 127.5 - 1.0


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=6), st.lists(st.integers(-40, 40), min_size=1, max_size=4))
def test_the_views_that_are_drawn_are_near_the_cameras(places, wanted):
    start = world().memory
    blocks = [start.blocks[0]]
    for number, place in enumerate(places, 1):
        T = np.repeat(moved(x=float(place)).T_world_cam[None], len(start.blocks[0].frames.row), 0)
        row = np.full_like(start.blocks[0].frames.row, number)
        blocks.append(replace(start.blocks[0], frames=replace(start.blocks[0].frames, row=row, T_world_cam=T)))
    memory, all_places = replace(start, blocks=tuple(blocks)), np.array([0, *places], float)
    chosen = nearest_views(memory, [moved(x=float(x)) for x in wanted], MOST)
    assert len(chosen) == len(set(chosen)) == min(MOST, len(all_places))
    apart = np.abs(all_places[:, None] - np.array(wanted, float))
    if len(wanted) == 1:
        assert np.allclose(apart[chosen, 0], np.sort(apart[:, 0])[: len(chosen)])
    best = min(apart.sum(1))
    assert np.isclose(apart[chosen[0]].sum(), best)
    for n in range(1, len(chosen)):
        gained = np.minimum(apart, apart[chosen[:n]].min(0)).sum(1)
        assert gained[chosen[n]] <= np.delete(gained, chosen[:n]).min() + 0.01 * apart.sum()


def test_what_was_imagined_is_no_view_to_be_drawn():
    state = MODEL.step(begun(), [aside(20)] * 4)[1]
    assert state.memory.frames > 1
    assert nearest_views(state.memory, [aside(20)], MOST) == [0]
    assert nearest_views(state.memory, [aside(20)], MOST, before=0) == []
    later = replace(state.memory, blocks=state.memory.blocks[1:])  # of a start view nothing may be left
    assert nearest_views(later, [aside(20)], MOST) == []


# Meshes


@pytest.fixture
def made(monkeypatch):
    """Calls that make meshes."""
    calls, make = [], SeenView.of

    def counted(model, memory, portraits):
        calls.append(memory)
        return make(model, memory, portraits)

    monkeypatch.setattr(SeenView, "of", staticmethod(counted))
    return calls


def test_meshes_are_made_once_for_a_world_and_again_when_tokens_are_gone(made):
    model = drawing_model()
    state = begun(model)
    after = model.step(model.step(state, [aside(1)] * 4)[1], [aside(2)] * 4)[1]
    block = after.memory.blocks[0]
    doubted = replace(after.memory, blocks=(block.with_confidence(block.confidence * 0), *after.memory.blocks[1:]))
    stepped(replace(after, memory=doubted), CAMERA, model)
    assert len(made) == 1
    left = replace(block.keep(block.cell % 4 < 2), frames=block.frames)
    fewer = replace(after, memory=replace(after.memory, blocks=(left, *after.memory.blocks[1:])))
    for _ in range(2):
        shown = stepped(fewer, CAMERA, model)
    assert len(made) == 2
    assert (shown[..., :14] - PICTURE[..., :14]).abs().max() < STORED
    assert (shown[..., 26:] == PAINTED).all()
    stepped(begun(model), CAMERA, model)
    assert len(made) == 3


def test_forks_that_saw_different_things_share_no_meshes(made):
    model = drawing_model()
    state, there, beside = begun(model), aside(18), aside(19)
    bright, dark = looked(state, there, 200, model=model), looked(state, there, 30, model=model)
    for _ in range(2):
        assert (over(bright, [beside], model)[1][..., :-4] - grey(200)).abs().max() < STORED
        assert (over(dark, [beside], model)[1][..., :-4] - grey(30)).abs().max() < STORED
    assert len(made) == 5  # the start view was made for both


def test_a_view_whose_pose_was_corrected_is_drawn_where_it_is_now():
    model, way = drawing_model(), np.array([0.0, 0.0, -0.5])
    state = looked(begun(model), aside(18), 30, model=model)
    before = over(state, [aside(19)], model)[1]
    start, block = state.memory.blocks
    T = block.frames.T_world_cam.copy()
    T[:, :3, 3] += way
    moved_block = replace(block, anchor=block.anchor + way, frames=replace(block.frames, T_world_cam=T))
    corrected = replace(state, memory=replace(state.memory, blocks=(start, moved_block)))
    after = over(corrected, [aside(19)], model)[1]
    assert torch.equal(after, over(corrected, [aside(19)], replace(model, drawings=ViewDrawings()))[1])
    assert not torch.equal(after, before)


def test_meshes_of_a_few_views_are_kept_and_those_of_the_start_view(made):
    model = drawing_model()
    state = begun(model)
    for n in range(1, KEPT + 5):
        state = looked(state, moved(x=9.0 * n), 50, model=model)
        over(state, [moved(x=9.0 * n)], model)
        assert len(model.drawings._made[state.memory.blocks[0].frames]) <= KEPT + 1
    count = len(made)
    over(state, [CAMERA], model)
    assert len(made) <= count + MOST - 1
    assert all((memory.blocks[0].frames.row > 0).all() for memory in made[count:])


def test_meshes_are_forgotten_with_their_world():
    model = drawing_model()
    state = begun(model)
    stepped(state, CAMERA, model)
    assert len(model.drawings._made) == 1
    del state
    gc.collect()
    assert not model.drawings._made


def test_copies_of_a_model_begin_without_meshes_and_draw_the_same(made):
    model = drawing_model()
    state = begun(model)
    expected = stepped(state, aside(3), model)
    for again in (copy.copy, copy.deepcopy):
        drawings = again(model.drawings)
        assert isinstance(drawings, ViewDrawings)
        assert not drawings._made
        assert torch.equal(stepped(state, aside(3), replace(model, drawings=drawings)), expected)
    assert len(made) == 3
    assert torch.equal(stepped(copy.deepcopy(state), aside(3), copy.deepcopy(model)), expected)


def test_a_model_with_another_depth_network_shares_no_meshes():
    state, model = MODEL.start(IMAGE, CAMERA)[1], drawing_model()
    stepped(state, aside(3), model)
    shown = stepped(state, aside(3), replace(model, depth=Plane(METRES * 2.0)))
    fresh = stepped(state, aside(3), drawing_model(depth=Plane(METRES * 2.0)))
    assert torch.equal(shown, fresh)


@pytest.mark.parametrize("observed", [False, True])
def test_a_saved_world_goes_on_with_the_bits_of_the_one_in_memory(tmp_path, observed):
    model = real_model()
    state = model.step(begun(model), [aside(i) for i in range(1, 5)])[1]
    if observed:
        view = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        state = model.observe(state, [view], [moved(z=0.9, yaw=0.3)], [np.full((32, 32), 1.4)])[1]
    save_world(tmp_path / "world.zarr", state, model)
    loaded, path = load_world(tmp_path / "world.zarr", model), [moved(z=0.25 * i, yaw=0.1 * i) for i in range(1, 5)]
    assert len(true_rows(loaded.memory)) == len(true_rows(state.memory)) == 1 + observed
    for _ in range(2):
        (expected, state), (chunk, loaded) = model.step(state, path), model.step(loaded, path)
        assert torch.equal(chunk.frames, expected.frames)


# Measured depth


def with_box(near, columns=slice(11, 21)):
    """Depth of a box before a wall, whose sides lie within cells."""
    depth = np.full((32, 32), METRES)
    depth[:, columns] = near
    return depth


NEVER = drawing_model(depth=Plane(math.nan))
"""Whoever asks its depth network is told nothing."""


@pytest.mark.parametrize("right", [2, 4])
def test_measured_outlines_are_drawn_where_they_were_measured_and_what_is_behind_goes_on(right):
    state = begun(NEVER, with_box(METRES / 2.0))  # moves twice as far as the wall
    shown = over(state, [aside(right)], NEVER)[1][0]
    box = slice(11 - 2 * right, 21 - 2 * right)
    assert (shown[:, :, box] - PICTURE[:, :, 11:21]).abs().max() < STORED
    assert (shown[:, :, 23 - right : 29 - right] - PICTURE[:, :, 23:29]).abs().max() < STORED
    # Between them is wall that no view has shown: mirrored where a pixel shows nothing but wall. The box is a pixel
    # broader than it was measured: that one shows some of both.
    between = range(23 - 2 * right, 22 - right)
    mirrored = [2 * (22 + PURE) - (x + right) for x in between]
    assert (shown[:, :, list(between)] - PICTURE[:, :, mirrored]).abs().max() < STORED


@pytest.mark.parametrize("measured", [True, False])
def test_seams_along_measured_outlines_show_what_is_around_them(measured, monkeypatch):
    def drawn(views, guess, before_sky, cameras):
        guessed = torch.zeros(1, 32, 32, dtype=torch.bool)
        guessed[:, :, 15:17] = True
        return (
            torch.where(guessed[:, None], -1.0, 0.5).expand(1, 3, 32, 32),
            ~guessed,
            guessed,
            torch.full((1, 32, 32), METRES),
        )

    monkeypatch.setattr(view_drawings, "_drawn", drawn)
    state = begun() if measured else MODEL.start(IMAGE, CAMERA)[1]
    painted, shown = over(state, [CAMERA], readout=told(age=1.0))
    assert ((shown[0, :, 4:28, 15:17] - 0.5).abs().max() < 0.01) == measured
    assert torch.equal(shown[0, :, :, 15:17], painted[0, :, :, 15:17]) != measured


@pytest.mark.parametrize("nothing", [0.0, np.inf])
def test_where_nothing_was_measured_depth_is_estimated(nothing):
    depth = with_box(METRES)
    depth[9:12, 9:12] = nothing
    shown = over(begun(depth=depth), [aside(3)])[1]
    assert (shown[0, :, :, :27] - PICTURE[:, :, 3:30]).abs().max() < STORED


def test_views_that_are_observed_with_their_depth_are_drawn_by_it():
    state = looked(begun(NEVER), moved(y=0.2), 30, with_box(METRES / 2.0), NEVER)
    first, second = (block.frames for block in state.memory.blocks)
    assert (first.row[first.measured].tolist(), second.row[second.measured].tolist()) == ([0], [1])
    assert (first.depth == METRES).all()
    assert np.array_equal(second.depth[0], with_box(METRES / 2.0))
    assert not over(state, [moved(y=0.2, x=0.1)], NEVER)[1].isnan().any()


def test_views_that_are_observed_together_keep_each_its_own_picture_and_depth():
    depths = [np.full((32, 32), METRES), with_box(METRES / 2.0)]
    cameras, images = [moved(x=5.0), moved(x=-5.0)], [IMAGE, IMAGE[::-1]]
    state = MODEL.observe(begun(), images, cameras, depths)[1]
    frames = state.memory.blocks[-1].frames
    assert frames.row[frames.measured].tolist() == frames.row[frames.picture_bytes > 0].tolist() == [1, 2]
    assert np.array_equal(frames.depth, depths)
    for row, image in zip((1, 2), images, strict=True):
        kept = kept_picture(of_view(state.memory, row))
        assert (kept - torch.from_numpy(image.copy()).permute(2, 0, 1) / 127.5 + 1.0).abs().max() < STORED


def test_who_stands_and_looks_fills_no_memory_with_pictures_and_depth():
    state, depth = begun(), np.full((32, 32), METRES)
    depth[8:16, 8:16] = METRES / 2.0  # one cell of sixteen is new
    after = MODEL.observe(state, [IMAGE], [CAMERA], [depth])[1]
    assert len(true_rows(after.memory)) == 2
    assert sum(len(block.frames.depth) for block in after.memory.blocks) == 1  # of the start view
    assert sum(np.count_nonzero(block.frames.picture_bytes) for block in after.memory.blocks) == 1


def test_a_depth_that_was_estimated_is_not_kept_nor_one_that_nothing_is_drawn_by():
    estimated = MODEL.start(IMAGE, CAMERA)[1]
    estimated = MODEL.observe(estimated, [IMAGE], [aside(18)])[1]
    painted = begun(drawing_model(drawn=False))
    pixels = begun(replace(MODEL, memory_factory=RgbMemory.factory(Colours())))
    for state in (estimated, painted, pixels):
        assert not any(block.frames.measured.any() or len(block.frames.depth) for block in state.memory.blocks)
        assert any(len(block.frames.pictures) for block in state.memory.blocks) == (state is estimated)


def test_what_is_behind_a_mover_does_not_stand_where_it_stood():
    model, labels = drawing_model(), np.zeros((32, 32), np.int64)
    memory = replace(model.config.memory, movers=4)
    model = replace(model, config=replace(model.config, memory=memory, filters=TINY.config.filters))
    labels[8:24, 8:24] = MOVER
    state = begun(model, np.where(labels == MOVER, METRES / 4.0, METRES), labels)
    (mover,) = state.movers
    view = SeenView.of(model, of_view(state.memory, 0), [mover.portrait])
    assert torch.allclose(view.coarse[view.coarse > 0.0], torch.tensor(METRES))


def test_missing_depths_are_kept_as_none_no_surface_as_infinite_and_those_beyond_half_precision_as_far():
    depth = with_box(1e6)
    depth[0, 25], depth[1, 25], depth[2, 25] = np.nan, np.inf, 0.0
    kept = begun(depth=depth).memory.blocks[0].frames.depth[0].astype(np.float32)
    assert kept[:3, 25].tolist() == [0.0, np.inf, 0.0]
    assert (kept[3:, 22:] == METRES).all()
    assert (kept[:, 11:21] == 60000.0).all()


# Sky and slits


SKYLINE = (np.array([[[40, 80, 200]], [[200, 140, 60]]]).repeat(16, 0).repeat(32, 1) + IMAGE // 4 - 32).astype(np.uint8)
OUTSIDE = torch.from_numpy(SKYLINE).permute(2, 0, 1).float() / 127.5 - 1.0


def open_air():
    labels = np.zeros((32, 32), np.int64)
    labels[:16] = SKY
    model = drawing_model(sky=1000.0, segmenter=Labels(torch.from_numpy(labels)))
    return model, begun(model, labels=labels, image=SKYLINE, depth=np.where(labels == SKY, np.inf, METRES))


def test_the_sky_stays_where_it_is_while_the_wall_passes():
    model, state = open_air()
    _, shown = over(state, [aside(8)], model)
    assert (shown[0, :, :14, :22] - OUTSIDE[:, :14, :22]).abs().max() < STORED
    assert (shown[0, :, 18:, :22] - OUTSIDE[:, 18:, 8:30]).abs().max() < STORED


def test_the_line_of_the_sky_is_where_depth_was_measured_and_not_where_labels_are():
    rough = np.zeros((32, 32), np.int64)
    rough[:12] = SKY
    model = drawing_model(sky=1000.0, segmenter=Labels(torch.from_numpy(rough)))
    depth = np.where(np.arange(32)[:, None] < 16, np.inf, METRES).repeat(32, 1)
    shown = over(model.start(SKYLINE, CAMERA, depth)[1], [aside(8)], model)[1]
    assert (shown[0, :, :14, :22] - OUTSIDE[:, :14, :22]).abs().max() < STORED
    assert (shown[0, :, 18:, :22] - OUTSIDE[:, 18:, 8:30]).abs().max() < STORED


class BlueIsSky:
    """Labels as colours say (`StaticSegmenter`)."""

    def segment(self, images):
        return torch.where(images[:, 2] > images[:, 0] + 0.3, SKY, 0)


def test_the_sky_of_the_nearest_view_hides_nothing_that_another_one_saw():
    model, state = open_air()
    model = replace(model, segmenter=BlueIsSky(), drawings=ViewDrawings())
    wall = np.full((32, 32, 3), 30, np.uint8)  # to the right, and as high as the picture
    still = [np.zeros((32, 32), np.int64)]
    state = model.observe(state, [wall], [aside(40)], [np.full((32, 32), METRES)], still)[1]
    shown = over(state, [aside(12)], model)[1][0]
    assert nearest_views(state.memory, [aside(12)], MOST)[0] == 0
    assert (shown[:, :14, 30:] - grey(30)).abs().max() < STORED  # where the start view saw sky
    assert (shown[:, :14, :18] - OUTSIDE[:, :14, :18]).abs().max() < STORED


def test_behind_what_stands_before_the_sky_it_goes_on_a_little():
    model, state = open_air()
    painted, shown = over(state, [moved(y=-4 * METRES / FOCAL)], model)  # the wall sinks by four pixels
    assert not torch.isclose(painted, shown).all(1).any()
    assert (shown[0, :, :15] - OUTSIDE[:, :15]).abs().max() < STORED
    assert (shown[0, :, 22:] - OUTSIDE[:, 18:28]).abs().max() < STORED


def test_sky_goes_on_as_the_mirror_image_of_itself():
    ends = torch.arange(32) % 20  # of the sky, in every column
    rows = torch.arange(32)[:, None]
    image, depth, camera = view_drawings._sky_behind(noise := torch.rand(3, 32, 32), rows < ends, 50.0, CAMERA)
    expected = (rows < ends + 2) & (ends > 0) & (2 * ends - 1 - rows >= 0) | (rows < ends)
    assert torch.equal(depth > 0.0, expected)
    rays = np.stack([(np.arange(32) + 0.5 - 16.0) / FOCAL] * 2)
    lengths = np.sqrt(1.0 + rays[0] ** 2 + rays[1][:, None] ** 2)
    assert np.allclose((depth.numpy() * lengths)[expected], 50.0)
    assert camera is CAMERA
    source = torch.where(rows < ends, rows, 2 * ends - 1 - rows).clamp_min(0)
    assert torch.equal(image[:, expected], noise.gather(1, source.expand(3, -1, -1))[:, expected])


def gap(width, side=24):
    """Walls with an upright gap between them."""
    there = torch.ones(1, side, side, dtype=torch.bool)
    there[..., 10 : 10 + width] = False
    colours = torch.linspace(-0.5, 0.5, side).expand(1, 3, side, side)
    return torch.where(there[:, None], colours, 0.0), there


@pytest.mark.parametrize("width", [1, 3, GAP - 1])
def test_narrow_gaps_show_what_is_around_them(width):
    images, there = gap(width)
    closed, shown = view_drawings._without_gaps(images, there)
    assert shown.all()
    assert (closed.movedim(1, -1)[~there].abs() <= 0.2).all()
    assert (closed.movedim(1, -1)[~there] != 0.0).any()
    assert torch.equal(closed.movedim(1, -1)[there], images.movedim(1, -1)[there])


@pytest.mark.parametrize("width", [0, GAP, 9])
def test_wide_gaps_stay_open(width):
    images, there = gap(width)
    closed, shown = view_drawings._without_gaps(images, there)
    assert closed is images
    assert shown is there


def standing(metres, colour, camera=CAMERA):
    """A mesh as wide as a picture."""
    return ViewMesh.of(torch.full((3, 32, 32), grey(colour)), torch.full((32, 32), metres), camera)


def test_a_guess_beside_the_start_view_hides_its_sky_and_is_told_as_a_guess():
    model, state = open_air()
    view = model.drawings._of(0, model, state.memory, ()).view
    before, guess = standing(METRES, 200), standing(2.0 * METRES, 100)
    for before_sky, expected in (((before,), grey(200)), ((), OUTSIDE[:, :14, 2:30])):
        pictures, seen, guessed, _ = view_drawings._drawn([view], (guess,), before_sky, [CAMERA])
        assert (pictures[0, :, :14, 2:30] - expected).abs().max() < STORED
        assert (guessed[0, :14] == bool(before_sky)).all()
        assert torch.equal(seen, ~guessed)
        assert (pictures[0, :, 18:] - OUTSIDE[:, 18:]).abs().max() < STORED  # the wall that it shows is before both


def test_what_another_view_saw_of_the_sky_is_hidden_by_no_guess(monkeypatch):
    asked, plain = [], view_drawings._drawn
    monkeypatch.setattr(view_drawings, "_drawn", lambda *of: asked.append(of[2]) or plain(*of))
    model, state = open_air()
    made = model.drawings._of(0, model, state.memory, ())
    model.drawings._made[state.memory.blocks[0].frames][0] = replace(made, before_sky=(standing(METRES, 200),))
    over(state, [CAMERA], model)
    state = model.observe(state, [SKYLINE], [aside(40)], [np.full((32, 32), METRES)], [np.zeros((32, 32), np.int64)])[1]
    over(state, [CAMERA], model)
    assert [len(before_sky) for before_sky in asked] == [1, 0]
