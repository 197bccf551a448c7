"""A world server: the same bits as the local world, forks, crashes, quotas, and strangers at the door."""

import asyncio
import base64
import contextlib
import json
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch
import websockets.sync.client
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import path, picture, start_view, walled_world_model
from task_worlds import FORWARD, TURN, equal, mirage
from websockets.exceptions import InvalidStatus
from world_server import server_process, tiny_server

from mirage_env.adapters import RLinfBackend
from mirage_env.errors import (
    CacheExistsError,
    InvalidActionError,
    InvalidOptionError,
    QuotaError,
    ServerStoppingError,
    ServingError,
    StoreError,
    WorldNotFoundError,
)
from mirage_env.serving import Address, AsyncClient, Client, Limits
from mirage_env.serving.app import STATUS, openapi
from mirage_env.serving.journal import Journal
from mirage_env.serving.requests import VERBS
from mirage_env.serving.walks import Walks
from mirage_env.serving.world_caches import QUEUE
from mirage_env.store import load_world

TOKENS = ("a token of this test", "another one of this test")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with tiny_server(tmp_path_factory.mktemp("worlds"), most=8) as url:
        yield url


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


def remote(url, task=None, **arguments):
    name = {None: "", "explore": "Explore", "point_nav": "PointNav", "image_nav": "ImageNav", "revisit": "Revisit"}[
        task
    ]
    return gym.make(f"Mirage/Remote{name}-v0", url=url, disable_env_checker=True, **arguments).unwrapped


# The environment


@pytest.mark.parametrize("task", [None, "explore", "point_nav", "image_nav", "revisit"])
def test_remote_environment_gives_the_bits_of_the_local_one(url, task):
    arguments = {"observe": ("readout", "observed", "depth"), "info_frames": True}
    far, here = remote(url, task, **arguments), mirage(task, **arguments)
    assert far.observation_space == here.observation_space
    assert far.action_space == here.action_space
    for seed in (3, None):
        assert equal(far.reset(seed=seed), here.reset(seed=seed))
        for action in (0.5 * FORWARD, 0.5 * TURN):
            assert equal(far.step(action), here.step(action))


def test_remote_environment_takes_the_options_of_the_local_one(url, tmp_path):
    far, here = remote(url, camera_height=1.3), mirage(camera_height=1.3)
    camera = path(start_view(np.random.default_rng(0)).camera)[-1]
    image = np.kron(picture(3), np.ones((2, 3, 1), np.uint8))
    for options in (
        {"image": image},
        {"image": picture(4), "camera": camera, "depth": np.full((32, 32), 2.5)},
        {"image": picture(4), "camera": camera.T_world_cam},
        {"image": picture(4), "labels": np.arange(32 * 32).reshape(32, 32) % 2},
        {"image": picture(4), "camera_height": 2.0},
    ):
        assert equal(far.reset(seed=1, options=options), here.reset(seed=1, options=options))
        assert equal(far.step(0.5 * TURN), here.step(0.5 * TURN))
    far.save(tmp_path / "far.zarr")
    here.save(tmp_path / "here.zip")
    with pytest.raises(CacheExistsError):
        far.save(tmp_path / "far.zarr")
    results = [env.load(tmp_path / name) for env in (far, here) for name in ("far.zarr", "here.zip")]
    assert all(equal(result, results[0]) for result in results)
    assert equal(far.step(0.5 * FORWARD), here.step(0.5 * FORWARD))
    assert here.get_world().floor.height == pytest.approx(-2.0)
    far.reset(seed=1)
    far.save(tmp_path / "drawn.zarr")
    here.load(tmp_path / "drawn.zarr")
    assert here.get_world().floor.height == pytest.approx(-1.3)
    results = [env.reset(options={"cache": tmp_path / "here.zip"})[0] for env in (far, here)]
    assert equal(*results)
    with pytest.raises(InvalidOptionError, match="describe the option 'image'"):
        far.reset(options={"depth": np.ones((32, 32))})


def test_remote_forks_and_states_go_their_own_ways(url):
    far, here = remote(url, "explore"), mirage("explore")
    for env in (far, here):
        env.reset(seed=5)
        env.step(0.5 * FORWARD)
    twins, states = (far.fork(), here.fork()), (far.get_state(), here.get_state())
    assert equal(far.step(0.5 * TURN), here.step(0.5 * TURN))
    for _ in range(2):
        assert equal(twins[0].step(0.5 * FORWARD), twins[1].step(0.5 * FORWARD))
    assert equal(far.step(0.5 * FORWARD), here.step(0.5 * FORWARD))
    assert equal(far.set_state(states[0]), here.set_state(states[1]))
    assert equal(far.step(-0.5 * TURN), here.step(-0.5 * TURN))


def test_worlds_are_closed_when_nobody_refers_to_them(tmp_path):
    with tiny_server(tmp_path, limits=Limits(moments=3)) as url, Client(url) as client:
        env = remote(url)
        for seed in range(3):
            env.reset(seed=seed)
            for _ in range(1 + seed * 2):  # more moments than a world may hold
                env.step(0.1 * FORWARD)
        env.fork().step(0.5 * TURN)
        env.reset(seed=3)
        env.step(FORWARD)
        assert len(client.worlds()) <= 2
        env.close()
        assert not client.worlds()
    assert not list((tmp_path / "worlds").iterdir())


def test_remote_vector_environment_equals_the_single_ones(url):
    envs = gym.make_vec("Mirage/Remote-v0", num_envs=3, url=url, max_episode_steps=2)
    singles = [mirage() for _ in range(3)]
    observations, _ = envs.reset(seed=7)
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(observations["pixels"][i], env.reset(seed=7 + i)[0]["pixels"])
    actions = np.stack([FORWARD, TURN, -TURN]) * 0.5
    for _ in range(2):
        observations, _, _, truncated, _ = envs.step(actions)
        for i, env in enumerate(singles):  # networks that see several worlds at once round differently
            difference = observations["pixels"][i].astype(int) - env.step(actions[i])[0]["pixels"]
            assert np.abs(difference).max() <= 1
    assert truncated.all()
    envs.close()


# Worlds


def test_worlds_fork_go_back_and_are_kept(client):
    world = client.open(seed=2, want={"frames": "raw"})
    views = [world.view, *(world.step(0.3 * TURN, frames="raw") for _ in range(3))]
    assert [view.chunk for view in views] == [0, 1, 2, 3]
    kept = world.snapshot(views[1].moment).moment
    twin = world.fork()
    assert twin.view.moment == views[3].moment
    ahead = world.step(0.3 * FORWARD, frames="raw")
    np.testing.assert_array_equal(twin.step(0.3 * FORWARD, frames="raw").frames, ahead.frames)
    back = world.undo(2, frames="raw")
    assert back.chunk == 2
    np.testing.assert_array_equal(world.step(0.3 * TURN, frames="raw").frames, views[3].frames)
    assert world.restore(kept).chunk == 1
    np.testing.assert_array_equal(world.step(0.3 * TURN, frames="raw").frames, views[2].frames)
    assert {w["world"]: w["parent"] for w in client.worlds()}[twin.world] == world.world
    with pytest.raises(WorldNotFoundError, match="can go back"):
        world.undo(10)
    with pytest.raises(WorldNotFoundError, match="holds no moment"):
        world.restore(10**6)
    world.close()
    assert twin.step(0.3 * TURN).chunk == 5
    with pytest.raises(WorldNotFoundError, match="no world"):
        world.step(TURN)
    twin.close()


def test_looking_changes_nothing_and_observing_writes(client):
    world = client.open(image=picture(5), want={"frames": "raw"})
    camera = path(start_view(np.random.default_rng(0)).camera)[-1]
    aside = world.look(camera.T_world_cam, frames="png").frames
    np.testing.assert_array_equal(world.look(camera.T_world_cam, frames="png").frames, aside)
    assert world.look().chunk == 0
    before = world.view.header["memory_points"]
    seen = world.observe(picture(6)[None], camera.T_world_cam[None], np.full((1, 32, 32), 2.0), frames="raw")
    np.testing.assert_array_equal(seen.frames[0], picture(6))
    assert seen.chunk == 1
    assert seen.header["memory_points"] > before
    world.close()


def test_what_is_wanted_decides_what_is_sent(client):
    world = client.open(seed=1)
    assert set(world.step(TURN, frames="none").arrays) == set()
    full = world.step(TURN, frames="raw", depth=True, labels=True, observed=True, readout=True, latents=True)
    assert set(full.arrays) == {"frames", "depth", "labels", "observed", "readout", "latents"}
    assert full.frames.shape == (4, 32, 32, 3)
    assert world.step(TURN, frames="jpeg", last_only=True).frames.shape == (1, 32, 32, 3)
    assert full.poses.shape == (4, 4, 4)
    world.close()


def test_saved_and_exported_worlds_open_again(client, tmp_path):
    world = client.open(seed=4)
    world.step(TURN)
    world.save("mine.zarr")
    with pytest.raises(CacheExistsError):
        world.save("mine.zarr")
    (tmp_path / "world.zip").write_bytes(world.export("zip").arrays["file"].tobytes())
    assert load_world(tmp_path / "world.zip", walled_world_model()).chunk == 1
    assert client.open(cache="mine.zarr").view.chunk == client.open(world=tmp_path / "world.zip").view.chunk == 1
    assert world.export("ply").arrays["file"][:3].tobytes() == b"ply"


def test_errors_are_those_of_the_local_world(client):
    world = client.open(seed=1)
    with pytest.raises(InvalidActionError):
        world.step([2.0, 0, 0, 0, 0, 0])
    with pytest.raises(ServingError, match="action"):
        world.step([1.0])
    with pytest.raises(InvalidOptionError, match="takes no prompt"):
        client.open(seed=1, prompt="a kitchen")
    with pytest.raises(InvalidOptionError, match="no name for a cache"):
        client.open(cache="../../secret")
    with pytest.raises(ServingError, match="no verb"):
        client.call("erase", {})
    with pytest.raises(ServingError, match=r"K\.0"):
        client.ask("open", {"K": [[1.0], [2.0, 3.0], [4.0]]}, {"image": picture(1)})
    with pytest.raises(ServingError, match="no state of a PCG64"):
        client.open(rng={"bit_generator": "PCG64", "state": {"state": "x"}})
    assert world.look().chunk == 0


# Together


@pytest.fixture
def first_waits(monkeypatch):
    """Lets the first walk of a server begin when so many steps beside one are there, however slowly they arrive."""

    def first_waits(others):
        walk, begun = Walks._walk_together, []

        def held(walks, steps):
            deadline = time.monotonic() + 120
            while not begun and len(steps) + walks._batcher.pending <= others:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            begun.append(steps)
            return walk(walks, steps)

        monkeypatch.setattr(Walks, "_walk_together", held)

    return first_waits


def test_steps_that_arrive_together_walk_together_and_show_what_each_alone_would(tmp_path, first_waits):
    first_waits(3)
    with tiny_server(tmp_path, most=8, delay=0.1) as url:
        clients = [Client(url) for _ in range(4)]
        worlds = [client.open(seed=seed) for seed, client in enumerate(clients)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda world: world.step(0.5 * TURN, frames="none"), worlds))
            views = list(pool.map(lambda world: world.step(0.5 * TURN, frames="raw"), worlds))
        text = urllib.request.urlopen(f"{url}/metrics").read().decode()
        counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("mirage_batch_worlds"))
        assert float(counts["mirage_batch_worlds_sum"]) == 8
        assert float(counts["mirage_batch_worlds_count"]) < 8
        for seed, view in enumerate(views):
            env = mirage()
            env.reset(seed=seed)
            for _ in range(2):
                env.step(0.5 * TURN)
            difference = env.shown_frames().astype(int) - view.frames
            assert np.abs(difference).max() <= 1


def test_single_world_waits_for_nobody(tmp_path):
    with tiny_server(tmp_path, delay=10.0) as url, Client(url) as client:
        world = client.open(seed=1)
        begin = time.monotonic()
        for _ in range(6):
            world.step(TURN)
        assert time.monotonic() - begin < 50.0  # less than five of these waits


def test_one_wrong_path_among_many_fails_alone(tmp_path):
    with tiny_server(tmp_path, delay=0.2) as url:
        clients = [Client(url) for _ in range(2)]
        good, bad = (client.open(seed=1) for client in clients)
        for world in (good, bad):
            world.step(0.5 * TURN)
        with ThreadPoolExecutor(2) as pool:
            step = pool.submit(good.step, 0.5 * TURN)
            wrong = pool.submit(bad.walk, np.eye(4)[None].repeat(3, 0))  # a chunk has four frames
            assert step.result().chunk == 2
            with pytest.raises(Exception, match="4"):
                wrong.result()
        assert bad.look().chunk == 1


def test_world_that_asks_for_much_does_not_keep_others_waiting(tmp_path, first_waits):
    first_waits(8)

    async def walked():
        async with await AsyncClient.connect(url) as client:
            greedy, modest = await client.open(seed=1), await client.open(seed=2)
            order: list[str] = []

            async def step(world, name):
                await world.step(0.1 * TURN, frames="none")
                order.append(name)

            many = [asyncio.create_task(step(greedy, "greedy")) for _ in range(8)]
            await asyncio.sleep(0)
            await step(modest, "modest")
            await asyncio.gather(*many)
            return order

    with tiny_server(tmp_path, most=1, delay=0.0) as url, Client(url) as client:
        assert asyncio.run(walked()).index("modest") <= 3
        assert sorted(world["chunk"] for world in client.worlds()) == [1, 8]  # one after the other, none beside it


def test_fault_of_the_server_is_an_error_of_the_request_and_the_server_lives(url, client, monkeypatch):
    world = client.open(seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("mirage_env.serving.walks.Walks._walk_together", lambda *_: 1 / 0)
        with pytest.raises(ServingError, match="server failed"):
            world.step(TURN)
    assert world.step(TURN).chunk == 1
    world.close()


# Rest and crashes


def test_idle_worlds_leave_memory_and_come_back(tmp_path):
    with tiny_server(tmp_path, idle_seconds=0.2) as url, Client(url) as client:
        world = client.open(seed=3)
        world.step(0.5 * TURN)
        twin = world.fork()
        deadline = time.monotonic() + 120
        while any(w["awake"] for w in client.worlds()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [w["bytes"] for w in client.worlds()] == [0, 0]
        env = mirage()
        env.reset(seed=3)
        env.step(0.5 * TURN)
        env.step(0.5 * FORWARD)
        for one in (world, twin):
            view = one.step(0.5 * FORWARD, frames="raw")
            assert view.chunk == 2
            np.testing.assert_array_equal(view.frames, env.shown_frames())


def test_world_whose_step_cannot_be_written_stays_and_goes_on_later(tmp_path, monkeypatch):
    with tiny_server(tmp_path) as url, Client(url) as client:
        world = client.open(seed=3)
        first = world.step(0.5 * TURN).moment
        for moment in (None, client.call("snapshot", {"world": world.world, "moment": first}).moment):
            with monkeypatch.context() as patch:
                patch.setattr("mirage_env.serving.journal.Journal.put", full_disk)
                with pytest.raises(StoreError, match="full"):
                    world.walk([c.T_world_cam for c in path(start_view(np.random.default_rng(0)).camera)], moment)
            assert world.look().chunk == 1
        with monkeypatch.context() as patch:
            patch.setattr("mirage_env.serving.world_caches.CacheWriter.create", full_disk)
            with pytest.raises(StoreError, match="full"):
                client.open(seed=4)
        assert [w["world"] for w in client.worlds()] == [world.world]
        view = world.step(0.5 * FORWARD, frames="raw")
    env = walked(0.5 * TURN, 0.5 * FORWARD)
    np.testing.assert_array_equal(view.frames, env.shown_frames())
    with tiny_server(tmp_path) as url, Client(url) as client:
        assert client.world(world.world).look().chunk == 2


def test_steps_that_only_the_journal_has_come_back_bit_for_bit(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mirage_env.store.cache_writer.Writing.append", full_disk)
        with tiny_server(tmp_path) as url, Client(url) as client:
            world = client.open(seed=3).world
            for _ in range(2):
                client.world(world).step(0.5 * TURN)
            fork = client.world(world).fork().world
    assert load_world(next((tmp_path / "worlds").iterdir()), walled_world_model()).chunk == 0
    env = walked(0.5 * TURN, 0.5 * TURN, 0.5 * FORWARD)
    with tiny_server(tmp_path) as url, Client(url) as client:
        for name in (fork, world):
            assert client.world(name).look().chunk == 2
            view = client.world(name).step(0.5 * FORWARD, frames="raw")
            np.testing.assert_array_equal(view.frames, env.shown_frames())


def walked(*actions):
    env = mirage()
    env.reset(seed=3)
    for action in actions:
        env.step(action)
    return env


def full_disk(*_, **__):
    raise StoreError("the disk is full")


def test_server_that_ends_finishes_what_was_asked_for_and_refuses_the_rest(tmp_path, monkeypatch):
    walk, began, may_go = Walks._walk_together, threading.Event(), threading.Event()

    def slow(walks, steps):
        began.set()
        assert may_go.wait(120)
        return walk(walks, steps)

    def state_of(path):
        try:
            return urllib.request.urlopen(f"{url}{path}").status
        except urllib.error.HTTPError as error:
            return error.code

    monkeypatch.setattr(Walks, "_walk_together", slow)
    server = tiny_server(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        url = server.__enter__()
        worlds = [Client(url).open(seed=seed) for seed in range(2)]
        assert (state_of("/ready"), state_of("/health")) == (200, 200)
        step = pool.submit(worlds[0].step, 0.5 * TURN)
        assert began.wait(120)
        end = pool.submit(server.__exit__, None, None, None)
        deadline = time.monotonic() + 120
        while state_of("/ready") == 200:
            assert time.monotonic() < deadline
        assert (state_of("/ready"), state_of("/health"), status(url, "list", {})) == (503, 200, 503)
        with pytest.raises(ServerStoppingError, match="kept"):
            worlds[1].step(TURN)
        may_go.set()
        assert step.result().chunk == 1
        end.result()
    with tiny_server(tmp_path) as url, Client(url) as client:
        assert sorted(world["chunk"] for world in client.worlds()) == [0, 1]


def test_server_does_not_wait_longer_than_it_may(tmp_path, monkeypatch, caplog):
    walk = Walks._walk_together
    monkeypatch.setattr(Walks, "_walk_together", lambda *given: time.sleep(1.0) or walk(*given))
    with ThreadPoolExecutor(1) as pool:
        with tiny_server(tmp_path, drain_seconds=0.1) as url:
            step = pool.submit(Client(url).open(seed=1).step, TURN)
            time.sleep(0.2)
        with pytest.raises(ServingError):
            step.result()
    assert "given up" in caplog.text
    with tiny_server(tmp_path) as url, Client(url) as client:
        assert [world["chunk"] for world in client.worlds()] == [1], "it was written, and nobody heard of it"


def test_answer_that_comes_too_late_is_not_taken_for_the_next_one(url, client, monkeypatch):
    may_go, walk = threading.Event(), Walks._walk_together
    monkeypatch.setattr(Walks, "_walk_together", lambda *given: may_go.wait(120) and walk(*given))
    world = client.open(seed=1)
    with Client(url, timeout=0.1) as hasty:
        with pytest.raises(ServingError, match="does not answer"):
            hasty.world(world.world).step(TURN)
        may_go.set()
        assert world.look().chunk == 1
        hasty._timeout = 120
        assert "identity" in hasty.describe()
    world.close()


def test_every_acknowledged_step_is_there_after_a_kill(tmp_path):
    with server_process(tmp_path) as (process, url), Client(url) as client:
        worlds = [client.open(seed=seed) for seed in range(3)]
        reached = {world.world: 0 for world in worlds}
        worlds[0].step(0.3 * TURN)
        reached[worlds[0].world] = 1
        twin = worlds[0].fork()
        reached[twin.world] = 1
        kept = worlds[0].snapshot().moment
        stop = threading.Timer(0.4, process.send_signal, [signal.SIGKILL])
        stop.start()
        with contextlib.suppress(ServingError):
            while True:
                for world in (*worlds, twin):
                    reached[world.world] = world.step(0.3 * TURN, frames="none").chunk
    journal = Journal(tmp_path / "journal.sqlite")
    assert all(len(journal.steps(row.cache)) <= QUEUE + 1 for row in journal.worlds())
    journal.close()
    with tiny_server(tmp_path) as url, Client(url) as client:
        there = {w["world"]: w for w in client.worlds()}
        assert there.keys() == reached.keys()
        for name, chunks in reached.items():
            assert client.world(name).look().chunk - chunks in (0, 1)  # one may be written that nobody heard of
        assert there[worlds[0].world]["kept"] == [kept]
        assert client.world(worlds[0].world).restore(kept).chunk == 1
        env = mirage()
        env.reset(seed=0)
        for _ in range(2):
            env.step(0.3 * TURN)
        view = client.world(worlds[0].world).step(0.3 * TURN, frames="raw")
        np.testing.assert_array_equal(view.frames, env.shown_frames())


# Strangers


def test_every_token_has_worlds_of_its_own_and_quotas(tmp_path):
    limits = Limits(worlds=2, steps_per_second=1.5)
    with tiny_server(tmp_path, TOKENS, limits=limits) as url:
        with Client(url, TOKENS[0]) as mine, Client(url, TOKENS[1]) as theirs:
            world = mine.open(seed=1)
            with pytest.raises(WorldNotFoundError):
                theirs.world(world.world).look()
            assert not theirs.worlds()
            world.fork()
            with pytest.raises(QuotaError, match="2 worlds"):
                world.fork()
            theirs.open(seed=1)
            poses = [camera.T_world_cam.tolist() for camera in path(start_view(np.random.default_rng(0)).camera)]
            with pytest.raises(QuotaError, match="per second"):  # two at once, however slow the machine
                mine.ask("walk_many", {"walks": [{"world": world.world, "poses": poses}] * 2})
        for token in (None, "a token of nobody here", TOKENS[0][:-1]):
            with pytest.raises(ServingError, match="token"):
                Client(url, token)
            assert status(url, "list", {}, {} if token is None else {"Authorization": f"Bearer {token}"}) == 401
        assert status(url, "list", {}, {"Authorization": f"Bearer {TOKENS[0]}"}) == 200
        assert urllib.request.urlopen(f"{url}/health").status == 200


def status(url, verb, body, headers=None, data=None):
    data = json.dumps(body).encode() if data is None else data
    request = urllib.request.Request(f"{url}/v1/{verb}", data, {"Content-Type": "application/json", **(headers or {})})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


def test_pages_of_other_origins_are_refused_before_anything_of_theirs_is_read(url, client):
    worlds = len(client.worlds())
    foreign = {"Origin": "http://elsewhere.example"}
    assert status(url, "open", {"seed": 1}, foreign) == 403
    with pytest.raises(InvalidStatus) as refused:
        websockets.sync.client.connect(url.replace("http", "ws") + "/v1/socket", additional_headers=foreign)
    assert refused.value.response.status_code == 403
    assert status(url, "list", {}, {"Origin": url}) == 200
    assert len(client.worlds()) == worlds


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")
def test_clients_reach_a_server_over_tls_and_trust_no_other(tmp_path, monkeypatch):
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    files = {name: tmp_path / f"{name}.pem" for name in ("key", "cert")}
    out = ["-keyout", str(files["key"]), "-out", str(files["cert"])]
    subprocess.run([*command.split(), *out], check=True, capture_output=True)
    with tiny_server(tmp_path, TOKENS, files["cert"], files["key"]) as url:
        assert url.startswith("https://")
        with pytest.raises(ServingError, match="certificate"):
            Client(url, TOKENS[0])
        monkeypatch.setenv("SSL_CERT_FILE", str(files["cert"]))
        with Client(url, TOKENS[0]) as client:
            assert client.open(seed=1).step(TURN).chunk == 1
        with pytest.raises(ServingError):
            Client(url.replace("https", "http"), TOKENS[0])


def test_other_machines_need_tokens_of_some_length():
    with pytest.raises(InvalidOptionError, match="token"):
        Address("0.0.0.0")
    with pytest.raises(InvalidOptionError, match="16"):
        Address(tokens=("short",))
    with pytest.raises(InvalidOptionError, match="both"):
        Address(certificate="a.pem")


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["world", "want", "seed"]), inner),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from([*VERBS, "nothing"]), BODIES, st.booleans())
def test_odd_requests_are_refused_and_the_server_lives(url, verb, body, packed):
    data = json.dumps(body).encode()
    data = b"MRG1" + data if packed else data
    kind = {"Content-Type": "application/x-mirage" if packed else "application/json"}
    harmless = verb in ("list", "describe", "open")  # an empty object is right, and so are some others
    assert 400 <= status(url, verb, body, kind, data) < 500 or harmless


def test_requests_that_are_too_long_are_refused(url, monkeypatch):
    monkeypatch.setattr("mirage_env.serving.app.LARGEST_BODY", 100)
    assert status(url, "list", {}, data=b"{}" + b" " * 99) == 400
    assert status(url, "list", {}, data=b"{}" + b" " * 98) == 200


def test_openapi_names_every_verb_and_every_field():
    document = openapi()
    assert set(document["paths"]) == {f"/v1/{verb}" for verb in VERBS}
    for model in VERBS.values():
        schema = document["components"]["schemas"][model.__name__]
        assert set(schema.get("properties", {})) == set(model.model_fields)
    answers = document["paths"]["/v1/step"]["post"]["responses"]
    assert {str(status) for _, status in STATUS} <= set(answers)


def test_nobody_at_an_address_is_said_so():
    with pytest.raises(ServingError, match="mirage serve"):
        Client("http://127.0.0.1:9")
    for wrong in (
        "127.0.0.1:9",
        "http://127.0.0.1:9,",
        "http://127.0.0.1:99999",
        "ftp://127.0.0.1",
        "http://",
        "x://[",
    ):
        with pytest.raises(InvalidOptionError, match="such as http"):
            Client(wrong)


# As others call it


def test_rlinf_backend_advances_frames_as_its_protocol_says(url):
    backend = RLinfBackend(url)
    assert (backend.chunk, backend.image_size) == (4, (32, 32))
    frames = [[torch.from_numpy(picture(n)).permute(2, 0, 1)[:, None] / 127.5 - 1.0] for n in range(2)]
    backend.open_session([0, 1], frames, task_ids=["a", "b"], seeds=[3, 4], init_actions=torch.zeros(2, 1, 6))
    actions = torch.zeros(2, 4, 6)
    actions[..., 4] = 0.5
    shown = backend.generate(env_ids=range(2), actions=actions)
    assert shown.shape == (2, 3, 4, 32, 32)
    assert shown.abs().max() <= 1.0
    with Client(url) as client:
        world = client.open(4, image=picture(1))
        env = mirage(control="waypoints")
        env.reset(seed=4, options={"image": picture(1)})
        path = env.path(actions[1].numpy())
        alone = world.walk([camera.T_world_cam for camera in path], frames="raw").frames
        world.close()
    together = ((shown[1].permute(1, 2, 3, 0) + 1.0) * 127.5).round().numpy()
    assert np.abs(together - alone).max() <= 1  # batches round differently
    backend.close_session([1, 5])
    with pytest.raises(WorldNotFoundError, match="slots"):
        backend.generate([0, 1], actions)
    with pytest.raises(InvalidActionError):
        backend.generate([0], actions[:1, :2])
    backend.onload()
    backend.close_session([0])


def posted(url, route, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/v1/realtime/sessions{route}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_sessions_of_vllm_omni_step_reset_and_close_as_its_protocol_says(url):
    code, created = posted(url, "", {"model": "rooms", "mode": "world_model_env"})
    assert code == 200
    assert set(created) == {"session_id", "mode", "created_at"}
    one = f"/{created['session_id']}"

    def step(number, **changes):
        seen = {"images": {"front": picture(1).tolist()}, "extra": {"seed": 4}}
        action = {"joint_positions": [0, 0, 0, 0, 0.5, 0]}
        return posted(url, f"{one}/step", {"step_id": number, "observation": seen, "action": action, **changes})

    env = mirage()
    env.reset(seed=4, options={"image": picture(1)})
    for number in range(2):
        code, answer = step(number)
        assert (code, answer["step_id"], answer["error"]) == (200, number, None)
        env.step(0.5 * TURN)
        seen = answer["next_observation"]
        video = np.frombuffer(base64.b64decode(seen["video"]), seen["dtype"]).reshape(seen["shape"])
        np.testing.assert_array_equal(video, env.shown_frames())
        assert answer["model_metadata"]["committed_step_id"] == number
    for number, wrong in ((1, "step_already_committed"), (5, "step_out_of_order")):
        code, answer = step(number)
        assert (code, answer["error"]["code"], answer["error"]["committed_step_id"]) == (400, wrong, 1)
    assert step(2, action={"joint_positions": [9, 0, 0, 0, 0, 0]})[1]["error"]["code"] == "invalid_request"
    assert step(2, action={})[0] == 422
    assert posted(url, f"{one}/status")[1] == {
        "session_id": created["session_id"],
        "committed_step_id": 1,
        "context_length": 2,
        "closed": False,
    }
    assert posted(url, f"{one}/reset", {}) == (200, {"session_id": created["session_id"], "committed_step_id": -1})
    assert step(0)[0] == 200
    assert posted(url, f"{one}/close", {}) == (200, {"session_id": created["session_id"], "closed": True})
    assert step(1)[0] == 410
    assert posted(url, "/nobody/reset", {})[0] == 404
    assert posted(url, "", {"model": "rooms", "mode": "policy_inference"})[0] == 400
