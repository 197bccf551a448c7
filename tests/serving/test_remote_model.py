"""The model of a server, used like one that is here: the same bits, worlds that are here, servers that come back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from stand_ins import path, picture, start_view, walled_world_model
from world_server import tiny_server

from mirage_env.errors import InvalidCameraError, InvalidOptionError, ServingError
from mirage_env.images import frames_to_uint8
from mirage_env.serving import Client, Limits, RemoteWorldModel
from mirage_env.serving.walks import Walks
from mirage_env.store import load_world, save_world
from mirage_env.world_views import current_view

NOT_SENT = ("keep", "known", "latents")
"""Of the chunk of a step."""


@pytest.fixture(scope="module")
def here():
    return walled_world_model()


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    with tiny_server(tmp_path_factory.mktemp("worlds")) as url:
        yield RemoteWorldModel.connect(url)


def same(one, other, without=()):
    """Compare two values, array by array."""
    for row in fields(one):
        a, b = getattr(one, row.name), getattr(other, row.name)
        if row.name in without:
            continue
        if row.name == "frames" and isinstance(a, torch.Tensor):
            np.testing.assert_array_equal(frames_to_uint8(a), frames_to_uint8(b))
        elif isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype, row.name
            assert torch.equal(a, b), row.name
        elif row.name == "readout":
            same(a, b)
        elif row.name == "memory":
            assert len(a.blocks) == len(b.blocks)
            for x, y in zip(a.blocks, b.blocks, strict=True):
                np.testing.assert_array_equal(x.values(), y.values())
                np.testing.assert_array_equal(x.positions(), y.positions())
                np.testing.assert_array_equal(x.confidence, y.confidence)


def walk(model, folder):
    """Chunks and worlds of a walk: begun, walked, seen, gone back, saved and read again."""
    view = start_view(np.random.default_rng(0))
    yield model.start(view.image, view.camera, view.depth, 5)
    _, first = yield model.start(view.image, view.camera, None, 6)
    _, second = yield model.step(first, path(first.camera))
    _, third = yield model.step(second, path(second.camera))
    yield model.step(second, path(second.camera)[::-1])
    _, seen = yield model.observe(third, [picture(6)], [third.camera])
    yield current_view(model, seen), seen
    save_world(folder / "world.zip", seen, model)
    yield model.step(load_world(folder / "world.zip", model), path(seen.camera))
    yield ()


def test_worlds_of_a_servers_model_have_the_bits_of_those_of_the_model_here(here, far, tmp_path):
    assert (far.config, far.identity) == (here.config, here.identity)
    walks = [walk(model, tmp_path / name) for model, name in ((here, "here"), (far, "far"))]
    for name in ("here", "far"):
        (tmp_path / name).mkdir()
    results = [next(steps) for steps in walks]
    while all(results):
        stepped = not results[1][0].latents.any()
        same(results[0][0], results[1][0], NOT_SENT if stepped else ())
        same(results[0][1], results[1][1])
        results = [steps.send(result) for steps, result in zip(walks, results, strict=True)]


def test_server_keeps_only_the_worlds_and_moments_that_somebody_refers_to(tmp_path):
    view = start_view(np.random.default_rng(0))
    with tiny_server(tmp_path, limits=Limits(moments=3)) as url, Client(url) as client:
        far = RemoteWorldModel.connect(url)
        for _ in range(3):
            _, world = far.start(view.image, view.camera)
            for _ in range(4):  # more than a world may hold
                _, world = far.step(world, path(world.camera))
        assert len(client.worlds()) <= 2
        far.close()
        assert not client.worlds()


def test_closing_waits_for_no_step_and_leaves_no_world(tmp_path, monkeypatch):
    began, may_go, walk = threading.Event(), threading.Event(), Walks._walk_together

    def slow(walks, steps):
        began.set()
        assert may_go.wait(120)
        return walk(walks, steps)

    view = start_view(np.random.default_rng(0))
    monkeypatch.setattr("mirage_env.serving.connection.CLOSE_SECONDS", 0.2)
    with tiny_server(tmp_path) as url, Client(url) as client, ThreadPoolExecutor(1) as pool:
        far = RemoteWorldModel.connect(url)
        _, world = far.start(view.image, view.camera)
        monkeypatch.setattr(Walks, "_walk_together", slow)
        step = pool.submit(far.step, world, path(world.camera))
        assert began.wait(120)
        far.close()
        with pytest.raises(ServingError):
            step.result(120)
        may_go.set()
        assert not client.worlds()  # closing was asked for before


def test_worlds_go_on_when_their_server_is_back(here, tmp_path):
    view = start_view(np.random.default_rng(0))
    _, expected = here.start(view.image, view.camera)
    with tiny_server(tmp_path) as url, Client(url) as client:
        far = RemoteWorldModel.connect(url)
        _, world = far.start(view.image, view.camera)
        _, world = far.step(world, path(world.camera))
        client.describe()
    for _ in range(2):
        with pytest.raises(ServingError, match="no world server answers"):
            far.step(world, path(world.camera))
    with tiny_server(tmp_path, port=urlsplit(url).port) as url:
        _, world = far.step(world, path(world.camera))
        _, world = far.step(world, path(world.camera))
        assert client.describe()["identity"] == here.identity  # the same client, connected anew
        assert len(client.worlds()) == 1
        far.close()
        client.close()
    for _ in range(3):
        _, expected = here.step(expected, path(expected.camera))
    same(expected, world)


def test_wrong_paths_and_arrays_are_refused_as_by_the_model_here(far):
    view = start_view(np.random.default_rng(0))
    _, world = far.start(view.image, view.camera)
    with pytest.raises(InvalidCameraError):
        far.step(world, path(world.camera)[:-1])
    C, (h, w) = far.config.latent_channels, far.config.latent_size
    images, cells = np.zeros((2, 3, *far.config.image_size), np.float32), np.zeros((2, C, h, w), np.float32)
    ask = far.connection.client.ask
    for part, arrays, body in (
        ("encode", {}, {}),
        ("encode", {"images": images.astype(np.float64)}, {}),
        ("encode", {"images": images[..., :-1]}, {}),
        ("encode", {"images": images[:0]}, {}),
        ("encode", {"images": images, "more": images}, {}),
        ("encode_chunk", {"frames": images, "first": cells}, {}),
        ("decode", {"latents": cells.repeat(2, 2)}, {}),
        ("refine", {"latent": cells}, {}),
        ("estimate", {"images": images}, {"poses": [np.eye(4).tolist()], "K": np.eye(3).tolist()}),
        ("estimate", {"images": images, "known": cells[:, 0]}, {}),
        ("segment", {"images": images[0]}, {}),
    ):
        with pytest.raises(InvalidOptionError, match="give"):
            ask("network", {"part": part, **body}, arrays)
    assert ask("network", {"part": "encode"}, {"images": images})[1]["out"].shape == cells.shape
