"""What a server gives the viewer's page: previews, the memory, true views, films, names, and saved worlds by name."""

import asyncio
import io
import threading
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from small_rooms import START, open_room, truth
from stand_ins import path, picture, start_view, walled_world_model
from world_server import START_VIEWS, tiny_server

from mirage_env.errors import (
    CacheExistsError,
    CacheNotFoundError,
    InvalidImageError,
    InvalidOptionError,
    ServingError,
    WorldFailedError,
    WorldNotFoundError,
)
from mirage_env.memory.view_drawings import ViewDrawings
from mirage_env.serving import Address, AsyncClient, Client, Service, ServiceOptions, serving
from mirage_env.store import load_world, open_cache
from mirage_env.trajectories import PRESETS
from mirage_env.viewer.early_preview import watched
from mirage_env.viewer.photograph import LARGEST_IMAGE
from mirage_env.viewer.rooms import Rooms
from mirage_env.viewer.token_patches import TokenPatches

TURN = [0.0, 0.0, 0.2, 0.0, 0.4, 0.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("viewer")


@pytest.fixture(scope="module")
def url(folder):
    with tiny_server(folder / "worlds", saved=folder / "caches") as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as client:
        yield client


class Slow:
    """A depth network that waits until it is let go, or fails (`DepthEstimator`)."""

    def __init__(self):
        self.go, self.fails = threading.Event(), False
        self.go.set()

    def estimate(self, images, cameras, known=None):
        assert self.go.wait(300)
        if self.fails:
            raise WorldFailedError("the networks are <broken>")
        return walled_world_model().depth.estimate(images, cameras, known)


def test_frames_are_shown_before_the_chunk_is_remembered(tmp_path):
    """Those of a step that fails later are shown, too, and the world stays where it was."""
    slow = Slow()
    service = Service(walled_world_model(depth=slow), ServiceOptions(tmp_path), START_VIEWS)

    async def drive(url):
        async with await AsyncClient.connect(url) as client:
            world = await client.open(seed=1)
            slow.go.clear()
            body = {"world": world.world, "chunk": 1}
            preview = asyncio.create_task(client.ask("preview", body))
            step = asyncio.create_task(world.step(TURN, frames="jpeg"))
            header, arrays = await asyncio.wait_for(preview, 300)
            early = not step.done()
            slow.go.set()
            late = await step
            slow.fails = True
            wrong, never = await asyncio.gather(
                world.step(TURN), client.ask("preview", {**body, "chunk": 7}), return_exceptions=True
            )
            slow.fails = False
            return early, header, arrays, late, wrong, never, await world.look(last_only=True)

    with serving(service, Address(port=0)) as url:
        early, header, arrays, late, wrong, never, after = asyncio.run(drive(url))
    assert early
    assert header["poses"] == late.header["poses"]
    assert np.array_equal(arrays["frames"], late.frames)
    assert isinstance(wrong, WorldFailedError)
    assert never[1] == {}  # nobody waits for a chunk that does not come
    assert after.chunk == 1


class Inverted(ViewDrawings):
    """Draws every frame in the opposite colours."""

    def over(self, frames, *_):
        return -frames


def test_being_watched_changes_nothing_of_a_step_and_shows_what_is_drawn():
    model, seen = replace(walled_world_model(), drawings=Inverted()), []
    _, state = model.start(picture(1), START)
    way = path(START)
    chunk, after = model.step(state, way)
    watched_chunk, watched_after = watched(model, way, lambda *shown: seen.append(shown)).step(state, way)
    assert torch.equal(after.latents, watched_after.latents)
    assert torch.equal(chunk.depth, watched_chunk.depth)
    [(frames, cameras)] = seen
    assert torch.equal(frames, chunk.frames)
    assert list(cameras) == way


def test_tokens_are_patches_as_large_as_their_footprint(client, folder):
    world = client.open(room=1)
    steps = [world.step(TURN), world.step(TURN)]
    header, arrays = client.ask("tokens", {"world": world.world})
    world.save("read back")
    blocks = load_world(folder / "caches/read back.zarr", walled_world_model()).memory.blocks
    middle = arrays["xyz"].reshape(-1, 16, 3).mean(1)
    np.testing.assert_allclose(middle, np.concatenate([b.positions() for b in blocks]), atol=1e-3)
    side = 8 * np.linalg.norm(arrays["right"], axis=1).reshape(-1, 16)[:, 0]
    np.testing.assert_allclose(side, np.concatenate([b.footprint for b in blocks]), rtol=1e-3)
    assert np.allclose((arrays["right"] * arrays["down"]).sum(1), 0.0, atol=1e-6)
    born = np.concatenate([b.births() for b in blocks])
    assert np.array_equal(arrays["age"].reshape(-1, 16)[:, 0], 2 - born)
    assert set(born) >= {0, 1}
    assert arrays["colour"].dtype == np.uint8
    assert arrays["confidence"].shape == arrays["age"].shape == (len(arrays["xyz"]),)
    assert header["path"][1:] == [step.header["poses"][-1] for step in steps]  # and before it, where it began


def test_an_empty_memory_has_no_patches():
    model = walled_world_model()
    _, state = model.start(picture(1), START)
    empty = replace(state, memory=replace(state.memory, blocks=()))
    assert all(len(rows) == 0 for rows in TokenPatches(model.codec, 3).arrays(empty).values())


def test_true_views_are_those_of_the_room_at_the_frame(client):
    world = client.open(room=2)
    ask = {"world": world.world, "poses": [START.T_world_cam.tolist()] * 2, "frame": 5}
    _, arrays = client.ask("true_views", ask)
    for i in (0, 1):
        assert arrays["frames"][i].mean() == pytest.approx(truth(START, 5 + i)[0].mean(), abs=0.4)
    for other in (client.open(seed=1).world, "nowhere"):
        with pytest.raises(InvalidOptionError, match="nobody knows"):
            client.ask("true_views", {**ask, "world": other})


def test_a_model_with_a_world_of_its_own_opens_that_and_has_no_truth():
    own = replace(walled_world_model(), start_views=start_view)
    rooms = Rooms(own, open_room)
    assert rooms.start_view(3).image.tolist() == start_view(np.random.default_rng(3)).image.tolist()
    with pytest.raises(InvalidOptionError, match="nobody knows"):
        rooms.true_views(3, [START], 0)
    with pytest.raises(InvalidOptionError, match="no rooms here"):
        Rooms(walled_world_model(), None).start_view(1)


def test_presets_fill_whole_chunks_and_keep_out_of_walls(client):
    world = client.open(room=1)
    for name in PRESETS:
        poses = client.ask("preset", {"world": world.world, "path": name, "chunks": 3})[0]["poses"]
        assert len(poses) == 12
        assert all(np.linalg.norm(np.array(p)[:3, 3] - START.position) < 5.0 for p in poses)
    with pytest.raises(InvalidOptionError, match="choose one of"):
        client.ask("preset", {"world": world.world, "path": "moonwalk"})


def test_films_hold_the_frames_that_were_sent(client, tmp_path):
    frames = np.stack([np.full((32, 32, 3), 40 * i, np.uint8) for i in range(6)])
    gif = client.ask("film", {"to": "gif", "fps": 8.0}, {"frames": frames})[1]["file"].tobytes()
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == 6
    mp4 = client.ask("film", {"to": "mp4", "fps": 8.0}, {"frames": frames})[1]["file"].tobytes()
    (tmp_path / "film.mp4").write_bytes(mp4)
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "film.mp4"))[0] == 6
    for wrong in (frames[:0], frames[0], frames.astype(np.float32)):
        with pytest.raises(InvalidOptionError, match="a film needs"):
            client.ask("film", {"to": "gif", "fps": 8.0}, {"frames": wrong})


def named(client):
    return {world["world"]: world["name"] for world in client.worlds()}


def test_worlds_have_names_that_people_give_and_no_two_the_same(tmp_path):
    with tiny_server(tmp_path) as url, Client(url) as client:
        first = client.open(room=5)
        twin, other = first.fork(), first.fork()
        third = twin.fork()
        named_one = client.ask("fork", {"world": first.world, "name": "küche (2)"})[0]["world"]
        names = named(client)
        assert [names[w.world] for w in (first, twin, other, third)] == [
            "room 5",
            "room 5 fork",
            "room 5 fork 2",
            "room 5 fork 3",
        ]
        assert client.ask("rename", {"world": other.world, "name": "room 5"})[0]["name"] == "room 5 2"
        assert client.ask("rename", {"world": other.world, "name": "mine"})[0]["name"] == "mine"
        for wrong in ("", "<b>", "x" * 41, "../x", "a\n", "a\0"):
            with pytest.raises(ServingError, match="name"):
                client.ask("rename", {"world": other.world, "name": wrong})
        before = named(client)
    with tiny_server(tmp_path) as url, Client(url) as client:
        assert named(client) == before
        assert before[named_one] == "küche (2)"
        assert {w["room"] for w in client.worlds()} == {5}


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "/tmp/x", "a/b", "a\\b", ".hidden", "s3://bucket/x", "~root", "a\n", "x" * 65, "C:x", "a."],
)
def test_nothing_outside_the_folder_can_be_named(client, folder, name):
    world = client.open(room=1)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises((InvalidOptionError, CacheNotFoundError), match="no name for a cache"):
        world.save(name)
    with pytest.raises((InvalidOptionError, CacheNotFoundError), match="no name for a cache"):
        client.open(cache=name)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_link_out_of_the_folder_is_refused_and_nothing_is_overwritten(client, folder, tmp_path):
    world = client.open(room=1)
    assert world.save("inside").header["cache"] == "inside.zarr"
    with pytest.raises(CacheExistsError, match="another name"):
        world.save("inside.zarr")
    (folder / "caches/inside.zarr").rename(tmp_path / "outside.zarr")
    (folder / "caches/link.zarr").symlink_to(tmp_path / "outside.zarr")
    assert "link.zarr" not in client.ask("list", {})[0]["saved"]
    for overwrite in (False, True):
        with pytest.raises((InvalidOptionError, CacheExistsError)):
            world.save("link", overwrite=overwrite)
    with pytest.raises(InvalidOptionError, match="leads out"):
        client.open(cache="link.zarr")


def test_a_saved_world_comes_back_with_its_path_its_name_and_its_truth(client, folder):
    world = client.open(room=3)
    poses = [*world.step(TURN).header["poses"], *world.step(TURN).header["poses"]]
    world.save("my kitchen")
    assert "my kitchen.zarr" in client.ask("list", {})[0]["saved"]
    cameras = open_cache(folder / "caches/my kitchen.zarr").cameras
    assert [camera.T_world_cam.tolist() for camera in cameras[1:]] == poses
    again = client.open(cache="my kitchen.zarr")
    assert again.view.chunk == 2
    mine = next(w for w in client.worlds() if w["world"] == again.world)
    assert (mine["name"], mine["room"]) == ("my kitchen", 3)
    again.step(TURN)
    again.save("later")
    assert len(open_cache(folder / "caches/later.zarr").cameras) == 1 + 3 * 4
    with pytest.raises(InvalidOptionError, match="does not begin where room 2"):
        client.open(cache="my kitchen.zarr", room=2)


def sent(client, data):
    return client.world_of("open", {}, {"photo": np.frombuffer(data, np.uint8)})


def test_a_photograph_opens_a_world_and_other_files_are_refused(client):
    file = io.BytesIO()
    Image.fromarray(picture(5)).resize((60, 40)).save(file, "PNG")
    world = sent(client, file.getvalue())
    mine = next(w for w in client.worlds() if w["world"] == world.world)
    assert (mine["name"], mine["room"]) == ("photograph", None)
    assert world.view.frames.shape == (1, 32, 32, 3)
    before = len(client.worlds())
    bomb = b"BM" + (26 + 12).to_bytes(4, "little") + bytes(4) + (26).to_bytes(4, "little")
    bomb += (40).to_bytes(4, "little") + 2 * (65535).to_bytes(4, "little") + bytes.fromhex("01001800") + bytes(24)
    for wrong in (b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n", bomb, bytes(LARGEST_IMAGE + 1), b""):
        with pytest.raises(InvalidImageError):
            sent(client, wrong)
    assert len(client.worlds()) == before


def test_requests_about_worlds_of_others_find_none(client):
    pose = START.T_world_cam.tolist()
    bodies = {"preview": {"chunk": 1}, "tokens": {}, "preset": {"path": "orbit"}, "rename": {"name": "x"}}
    for verb, body in bodies.items():
        with pytest.raises(WorldNotFoundError):
            client.ask(verb, {"world": "nowhere", **body})
    with pytest.raises(InvalidOptionError):
        client.ask("true_views", {"world": "nowhere", "poses": [pose]})
