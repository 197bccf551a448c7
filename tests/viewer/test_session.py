"""A viewer's worlds: driven, undone, forked and saved by anybody at once, and never left half-changed."""

import threading
from concurrent.futures import wait
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from small_rooms import START, open_room
from stand_ins import picture, walled_world_model
from tiny_wan import tiny_wan_world_model

from mirage_env.commands.view_options import View
from mirage_env.errors import (
    CacheExistsError,
    CacheNotFoundError,
    InvalidImageError,
    InvalidOptionError,
    InvalidPoseError,
    WorldFailedError,
)
from mirage_env.export.latent_colors import Palette
from mirage_env.images import frames_to_uint8
from mirage_env.poses import inverse, pose_from_rotation_vector
from mirage_env.serving.origins import is_loopback
from mirage_env.store import load_world, open_cache
from mirage_env.trajectories import PRESETS, up_direction
from mirage_env.viewer import memory_cloud, picture_tiles
from mirage_env.viewer.cache_folder import CacheFolder
from mirage_env.viewer.key_paths import KEYS, Stride, key_path, named_path, way_to
from mirage_env.viewer.session import MOST_WAITING, Session
from mirage_env.viewer.view_motion import PAUSE, Motion
from mirage_env.viewer.world_sources import Openings
from mirage_env.viewer.world_tree import HISTORY


class Patient:
    """A generator that fails, or waits until it is let go, when it is told to."""

    def __init__(self, generator):
        self.generator = generator
        self.fails = False
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def generate(self, **arguments):
        self.begun.set()
        assert self.go.wait(30)
        if self.fails:
            raise RuntimeError("the networks are <broken>")
        return self.generator.generate(**arguments)


@pytest.fixture
def generator():
    return Patient(walled_world_model().generator)


@pytest.fixture
def session(tmp_path, generator):
    model = walled_world_model(generator=generator)
    session = Session(Openings(["tiny"], lambda name: model, open_room), CacheFolder(tmp_path / "caches"))
    session.open_room(1, "tiny").result(30)
    yield session
    generator.go.set()
    session.close()


def now(session):
    return session.snapshot().world


def fingerprint(world):
    """Everything the next chunk depends on, and what is shown, as bytes."""
    state = world.state
    blocks = [b.xyz.tobytes() + b.feature.tobytes() + b.confidence.tobytes() for b in state.memory.blocks]
    seen = (state.latents.numpy(), state.noise.numpy(), world.now.sight.images, state.camera.T_world_cam)
    return b"".join([*blocks, *(a.tobytes() for a in seen), np.stack([c.T_world_cam for c in world.path]).tobytes()])


def test_undo_returns_the_same_world_bit_for_bit(session):
    session.press("forward").result(30)
    before = fingerprint(now(session))
    session.press("turn_left").result(30)
    after = fingerprint(now(session))
    assert after != before
    session.undo().result(30)
    assert fingerprint(now(session)) == before
    session.press("turn_left").result(30)
    assert fingerprint(now(session)) == after


def test_undo_at_the_beginning_is_an_error_that_changes_nothing(session):
    before = now(session)
    with pytest.raises(InvalidOptionError, match="nothing to undo"):
        session.undo().result(30)
    assert now(session) is before
    assert "nothing to undo" in session.snapshot().error


def test_history_is_bounded_and_the_path_is_not(session):
    for _ in range(HISTORY + 2):
        session.again().result(30)
    assert len(now(session).moments) == HISTORY + 1
    assert len(now(session).path) == 1 + 4 * (HISTORY + 2)


def test_forks_are_independent(session):
    session.fork().result(30)
    assert session.snapshot().names == ("room 1", "room 1 fork")
    original = fingerprint(now(session))
    session.press("right").result(30)
    forked = fingerprint(now(session))
    session.switch("room 1").result(30)
    assert fingerprint(now(session)) == original
    session.press("left").result(30)
    session.switch("room 1 fork").result(30)
    assert fingerprint(now(session)) == forked


def test_other_worlds_can_be_discarded_but_not_the_current_one(session):
    session.fork("mine").result(30)
    with pytest.raises(InvalidOptionError, match="switch to another"):
        session.discard("mine").result(30)
    session.discard("room 1").result(30)
    assert session.snapshot().names == ("mine",)


@pytest.mark.parametrize("failing", ["generator", "key", "pose", "far", "seed", "room", "image", "model", "switch"])
def test_a_command_that_fails_leaves_the_world_as_it_was(session, generator, failing):
    session.press("forward").result(30)
    before, names = now(session), session.snapshot().names
    generator.fails = failing == "generator"
    commands = {
        "generator": lambda: session.press("forward"),
        "key": lambda: session.press("jump"),
        "pose": lambda: session.go(2.0 * np.eye(4)),
        "far": lambda: session.go(START.moved(pose_from_rotation_vector([0, 0, 900.0], np.zeros(3))).T_world_cam),
        "seed": lambda: session.open_room(-1, "tiny"),
        "room": lambda: session.open_room(13, "tiny"),
        "image": lambda: session.open_image(b"no image", 0, "tiny"),
        "model": lambda: session.open_room(1, "/etc"),
        "switch": lambda: session.switch("nowhere"),
    }
    with pytest.raises((InvalidOptionError, InvalidPoseError, InvalidImageError, RuntimeError)) as caught:
        commands[failing]().result(30)
    snapshot = session.snapshot()
    assert snapshot.world is before
    assert snapshot.names == names
    assert str(caught.value) in snapshot.error
    assert snapshot.errors == 1
    generator.fails = False
    session.press("back").result(30)
    assert now(session).state.chunk == before.state.chunk + 1
    assert session.snapshot().error == ""


def test_two_threads_at_once_leave_one_consistent_world(session):
    keys = list(KEYS)

    def hammer(seed):
        rng = np.random.default_rng(seed)
        for _ in range(25):
            action = rng.integers(6)
            if action < 3:
                session.press(keys[rng.integers(len(keys))])
            elif action == 3:
                session.undo()
            elif action == 4:
                session.fork()
            else:
                names = session.snapshot().names
                session.switch(names[rng.integers(len(names))])

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    session.stop()
    session.switch("room 1").result(30)
    for name in session.snapshot().names:
        session.switch(name).result(30)
        world = now(session)
        assert len(world.path) == 1 + 4 * world.state.chunk
        assert np.array_equal(world.path[-1].T_world_cam, world.state.camera.T_world_cam)
        for earlier, later in zip(world.moments, world.moments[1:], strict=False):
            assert later.before is earlier.state
            assert later.state.chunk == earlier.state.chunk + 1


def test_a_held_key_is_at_most_one_chunk_ahead(session, generator):
    generator.go.clear()
    generator.begun.clear()
    first = session.press("forward")
    assert generator.begun.wait(30)
    waiting = [session.press("turn_left") for _ in range(30)] + [session.press("turn_right")]
    generator.go.set()
    wait([first, *waiting], 30)
    assert now(session).state.chunk == 2
    turned = inverse(now(session).now.before.camera.T_world_cam) @ now(session).camera.T_world_cam
    assert turned[0, 2] > 0.1  # the newest key won: to the right


def test_commands_beyond_the_queue_are_refused_with_the_reason(session, generator):
    generator.go.clear()
    generator.begun.clear()
    first = session.press("forward")
    assert generator.begun.wait(30)
    futures = [session.again() for _ in range(MOST_WAITING + 1)]
    with pytest.raises(WorldFailedError, match="wait already"):
        futures[-1].result(0)
    assert session.snapshot().busy is not None
    session.stop()
    generator.go.set()
    wait([first, *futures], 30)
    assert now(session).state.chunk == 1


def test_stop_ends_a_walk_after_the_chunk_that_is_generated(session, generator):
    generator.go.clear()
    generator.begun.clear()
    walk = session.walk("look_around", 8)
    assert generator.begun.wait(30)
    busy = session.snapshot().busy
    assert (busy.what, busy.done, busy.total) == ("look_around", 0, 8)
    assert 0.0 <= busy.share(busy.began + 0.01) <= 1.0 / 8.0
    session.stop()
    generator.go.set()
    walk.result(30)
    assert now(session).state.chunk == 1
    assert "stopped" in session.snapshot().said


def test_a_saved_world_is_loaded_with_its_path_and_its_truth(session):
    session.walk("orbit", 2).result(30)
    saved = now(session)
    session.save("my world").result(30)
    assert session.caches.names() == ["my world.zarr"]
    session.load("my world.zarr").result(30)
    loaded = now(session)
    assert loaded.state.chunk == 2
    assert loaded.room is saved.room
    assert [c.T_world_cam.tolist() for c in loaded.path] == [c.T_world_cam.tolist() for c in saved.path]
    session.press("forward").result(30)
    session.save("later.zip").result(30)
    place = session.caches.to_load("later.zip")
    assert len(open_cache(place).cameras) == 1 + 3 * 4
    assert load_world(place, loaded.model).chunk == 3
    session.switch("room 1").result(30)
    session.press("forward").result(30)
    assert fingerprint(now(session)) == fingerprint(session._worlds["my world"])


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "/tmp/x", "a/b", "a\\b", ".hidden", "s3://bucket/x", "~root", "a\n", "x" * 65, "C:x", "a."],
)
def test_nothing_outside_the_folder_can_be_named(session, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    for command in (session.save, session.load):
        with pytest.raises((InvalidOptionError, CacheNotFoundError), match="no name for a cache"):
            command(name).result(30)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_out_of_the_folder_is_refused(session, tmp_path):
    session.save("inside").result(30)
    (session.caches.folder / "inside.zarr").rename(tmp_path / "outside.zarr")
    (session.caches.folder / "link.zarr").symlink_to(tmp_path / "outside.zarr")
    assert session.caches.names() == []
    with pytest.raises(InvalidOptionError, match="leads out"):
        session.load("link.zarr").result(30)
    with pytest.raises((InvalidOptionError, CacheExistsError)):
        session.save("link").result(30)


def test_saving_never_overwrites(session):
    session.save("a").result(30)
    with pytest.raises(CacheExistsError, match="another name"):
        session.save("a.zarr").result(30)


def test_a_cache_of_another_room_is_refused_beside_a_seed(session):
    session.save("a").result(30)
    place = session.caches.to_load("a.zarr")
    session.open_cache(place, seed=1).result(30)
    with pytest.raises(InvalidOptionError, match="does not begin where room 2"):
        session.open_cache(place, seed=2).result(30)


def test_a_photograph_opens_a_world_without_truth(session):
    file = BytesIO()
    Image.fromarray(picture(5)).resize((60, 40)).save(file, "PNG")
    session.open_image(file.getvalue(), 3, "tiny").result(30)
    assert session.snapshot().current == "image"
    assert now(session).room is None
    assert len(picture_tiles.tiles_of(now(session), 0)) == 3


def test_without_rooms_a_room_is_an_error(tmp_path):
    openings = Openings(["tiny"], lambda name: walled_world_model())
    with pytest.raises(InvalidOptionError, match="no rooms here"):
        openings.room(1, "tiny")


def test_a_closed_session_takes_no_commands(session):
    session.close()
    with pytest.raises(WorldFailedError, match="closed"):
        session.press("forward")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_and_its_opposite_cancel_and_keep_the_horizon(key):
    opposite = {"forward": "back", "left": "right", "turn_left": "turn_right", "look_up": "look_down"}
    opposite |= {b: a for a, b in opposite.items()}
    start = key_path("look_down", START, 1, Stride(radians=0.2))[-1]
    there = key_path(key, start, 4, Stride())
    back = key_path(opposite[key], there[-1], 4, Stride())
    assert len(there) == 4
    assert np.allclose(back[-1].T_world_cam, start.T_world_cam, atol=1e-9)
    assert abs(there[-1].T_world_cam[:3, 0] @ up_direction(START)) < 1e-9


def test_keys_lead_where_they_say():
    def moved(key):
        return inverse(START.T_world_cam) @ key_path(key, START, 4, Stride(0.5, 0.3))[-1].T_world_cam

    for key, way in {"forward": (0, 0, 0.5), "back": (0, 0, -0.5), "left": (-0.5, 0, 0), "right": (0.5, 0, 0)}.items():
        assert np.allclose(moved(key)[:3, 3], way, atol=1e-9)
    assert moved("turn_right")[0, 2] > 0.2 > -0.2 > moved("turn_left")[0, 2]
    assert moved("look_down")[1, 2] > 0.2 > -0.2 > moved("look_up")[1, 2]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fill_whole_chunks(name):
    assert len(named_path(name, START, lambda chunks: 4 * chunks, 3, None)) == 12


def test_a_way_ends_at_the_pose_and_is_gentle():
    goal = START.moved(pose_from_rotation_vector([0.3, 0.0, 1.0], [0.0, 0.5, 0.0]))
    way = way_to(goal.T_world_cam, START, lambda chunks: 4 * chunks)
    assert len(way) % 4 == 0
    assert np.allclose(way[-1].T_world_cam, goal.T_world_cam)
    steps = [np.linalg.norm(b.position - a.position) for a, b in zip([START, *way], way, strict=False)]
    assert max(steps) < 0.13


@pytest.mark.parametrize("colouring", memory_cloud.COLOURINGS)
def test_every_colouring_draws_the_whole_memory(session, colouring):
    session.press("turn_left").result(30)
    world = now(session)
    drawn = memory_cloud.cloud_of(world, colouring, Palette(world.model.codec), ceiling=True)
    assert drawn.xyz.shape == drawn.colours.shape
    assert len(drawn.xyz) >= world.state.memory.points
    assert len(drawn.xyz) % 16 == 0 or colouring == "gate"
    middle = drawn.xyz[: 16 * world.state.memory.points].reshape(-1, 16, 3).mean(1) + drawn.origin
    tokens = np.concatenate([b.positions() for b in world.state.memory.blocks])
    assert np.allclose(middle, tokens, atol=1e-3)


def test_gate_colours_tell_what_the_last_chunk_did(session):
    session.press("turn_left").result(30)
    world = now(session)
    colours = memory_cloud.gate_colours(world.now, memory_cloud.Tokens.of(world.state.memory))
    born = np.concatenate([b.births() for b in world.state.memory.blocks])
    assert (born == 1).any()
    assert ((colours == memory_cloud.NEW).all(1) == (born == 1)).all()


def test_an_empty_memory_draws_nothing(session):
    world = now(session)
    memory = replace(world.state.memory, blocks=())
    empty = replace(world, moments=(replace(world.now, state=replace(world.state, memory=memory)),))
    for colouring in memory_cloud.COLOURINGS:
        assert len(memory_cloud.cloud_of(empty, colouring, Palette(world.model.codec)).xyz) == 0


def test_palette_has_the_colours_of_decoded_patches():
    codec = walled_world_model().codec
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).numpy()
    whole, parts = (Palette(codec).colours(features, n).astype(float) for n in (1, 4))
    assert whole.shape == (200, 1, 3)
    assert parts.shape == (200, 16, 3)
    assert np.allclose(parts.mean(1), whole[:, 0], atol=2.0)


def test_the_picture_shows_the_truth_only_where_there_is_one(session):
    session.press("forward").result(30)
    world = now(session)
    assert [name for name, _ in picture_tiles.tiles_of(world, 2)] == [
        picture_tiles.IMAGINED, picture_tiles.TRUE, picture_tiles.KNOWN, picture_tiles.UNOBSERVED
    ]  # fmt: skip
    assert (picture_tiles.tiles_of(world, 2)[1][1] == 3).all()  # frame 3 since the world began
    assert picture_tiles.picture_of(world, 2).shape[1] == picture_tiles.WIDTH
    assert picture_tiles.picture_of(replace(world, room=None), 2).shape[1] == picture_tiles.WIDTH


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("x.y", False),
    ],
)
def test_loopback_is_told_from_the_rest(host, local):
    assert is_loopback(host) is local


def test_the_viewer_listens_at_loopback_by_default():
    assert is_loopback(View().host)


def test_frames_are_shown_before_the_chunk_is_remembered(session):
    """A depth network that waits shows what there is to see until then."""
    world, seen = now(session), []

    class Slow:
        def estimate(self, images, cameras, known=None):
            seen.append(session.snapshot())
            return world.model.depth.estimate(images, cameras, known)

    model = replace(world.model, depth=Slow())
    session._worlds["room 1"] = replace(world, model=model)
    session.switch("room 1").result(30)
    session.press("forward").result(30)
    (snapshot,) = seen
    assert snapshot.world.state.chunk == 0
    moment = now(session).now
    assert moment.sight is snapshot.coming
    assert session.snapshot().coming is None
    cameras, images = snapshot.coming.cameras, snapshot.coming.images
    assert len(images) == len(cameras) == 4
    before = [name for name, _ in picture_tiles.tiles_of(snapshot.world, 2, snapshot.coming)]
    assert before == [name for name, _ in picture_tiles.tiles_of(now(session), 2)]
    for (_, early), (_, late) in zip(
        picture_tiles.tiles_of(snapshot.world, 2, snapshot.coming), picture_tiles.tiles_of(now(session), 2), strict=True
    ):
        assert np.array_equal(early, late)


def test_being_watched_changes_nothing_of_a_step(session):
    world = now(session)
    path = key_path("forward", world.camera, 4, Stride())
    chunk, state = world.model.step(world.state, path)
    session.press("forward").result(30)
    assert np.array_equal(frames_to_uint8(chunk.frames), now(session).now.sight.images)
    assert torch.equal(state.latents, now(session).state.latents)
    assert np.array_equal(chunk.readout.observed > 0, now(session).now.sight.observed)


def test_a_step_that_fails_late_takes_its_frames_back(session):
    world = now(session)

    class Broken:
        def estimate(self, images, cameras, known=None):
            raise RuntimeError("no depth")

    session._worlds["room 1"] = replace(world, model=replace(world.model, depth=Broken()))
    session.switch("room 1").result(30)
    with pytest.raises(RuntimeError, match="no depth"):
        session.press("forward").result(30)
    assert session.snapshot().coming is None
    assert now(session).state is world.state


def test_browser_is_slow_only_where_its_frames_are_far_apart():
    for seconds, slow in ((0.02, False), (0.05, False), (0.12, True), (0.4, True), (2.0, False)):
        motion = Motion()
        for frame in range(20):
            motion.moved(seconds * frame)
        assert motion.slow is slow, seconds


def test_pauses_between_movements_are_not_slow_frames():
    motion, now = Motion(), 0.0
    for _ in range(20):
        now += 5.0
        for _ in range(10):
            now += 0.02
            motion.moved(now)
    assert not motion.slow
    assert motion.is_moving(now + PAUSE / 2)
    assert not motion.is_moving(now + 2 * PAUSE)


def test_slow_browser_stays_slow_once_it_draws_less():
    motion = Motion()
    for frame in range(10):
        motion.moved(0.2 * frame)
    for frame in range(100):
        motion.moved(2.0 + 0.02 * frame)
    assert motion.slow


def test_chunks_with_fewer_latents_than_frames_are_shown_whole(tmp_path):
    model = tiny_wan_world_model()
    session = Session(Openings(["wan"], lambda name: model), CacheFolder(tmp_path))
    data = BytesIO()
    Image.fromarray(picture(1)).save(data, "PNG")
    session.open_image(data.getvalue(), 0, "wan").result(60)
    session.press("forward").result(60)
    world = now(session)
    sight = world.now.sight
    assert (len(sight.images), len(sight.known)) == (8, 2)
    assert [sight.key(frame) for frame in range(8)] == [0] * 4 + [1] * 4
    assert all(picture_tiles.picture_of(world, frame).shape[1] == picture_tiles.WIDTH for frame in range(8))
    for colouring in memory_cloud.COLOURINGS:
        drawn = memory_cloud.cloud_of(world, colouring, Palette(model.codec), ceiling=True)
        assert len(drawn.xyz) == len(drawn.colours) >= world.state.memory.points
    session.close()
