"""The world node at a world server: a real server process that is killed and comes back, and a real node."""

import socket
import time

import numpy as np
import pytest
import torch
from PIL import Image
from ros_process import PATIENCE, Peer, free_domain, needs_ros, node_arguments, ros_process
from stand_ins import picture, walled_world_model
from world_nodes import RATE, START_SECONDS, kind, latched
from world_server import SERVE

from mirage_env.errors import InvalidOptionError
from mirage_env.serving import Client
from mirage_env.store import load_world, open_cache
from ros_bridge import messages
from ros_bridge.inputs.start_views import start_view
from ros_bridge.nodes.world_opening import world_player
from ros_bridge.parameters.world_parameters import WorldParameters


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "kitchen", "device": "cuda"}, "model, device are up to the server"),
        ({"server": "", "token_file": "tokens"}, "token_file belongs to server"),
    ],
)
def test_what_a_server_decides_cannot_be_asked_of_the_node(wrong, says):
    with pytest.raises(InvalidOptionError, match=says):
        WorldParameters(**{"server": "http://127.0.0.1:9", **wrong})


def test_token_is_the_first_line_of_its_file(tmp_path):
    options = WorldParameters(server="http://127.0.0.1:9", token_file=str(tmp_path / "token"))
    for text in (None, "\n \n"):
        if text is not None:
            (tmp_path / "token").write_text(text)
        with pytest.raises(InvalidOptionError, match="token_file"):
            world_player(options, time.time, False)


@needs_ros
def test_node_walks_on_a_server_as_with_a_model_of_its_own_and_outlives_it(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "start.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store, domain = tmp_path / "walk.zarr", free_domain()
    options = {"start_image": str(tmp_path / "start.png"), "seed": 3, "rate": RATE, "cmd_timeout": 0.0}
    given = {**options, "server": f"http://127.0.0.1:{port}", "store": str(store), "points_rate": 10.0}
    peer = Peer(domain, tmp_path / "logs")

    def served():
        return ros_process(["-c", SERVE, str(tmp_path / "worlds"), str(port)], domain, tmp_path)

    def walks_on(node):
        before = open_cache(store).chunks if store.exists() else 0
        move = messages.twist_message([0.4, 0.0, 0.0], [0.0, 0.0, 0.3])
        peer.insist("/cmd_vel", move, lambda: store.exists() and open_cache(store).chunks > before + 1)

    try:
        with served() as server:
            peer.wait_for(lambda: "http" in server.output, START_SECONDS)
            with ros_process(node_arguments("ros_bridge.nodes.world_node", given), domain, tmp_path) as node:
                walks_on(node)
                with peer.listening(kind("PointCloud2"), "/mirage/points", latched()) as clouds:
                    peer.wait_for(lambda: clouds and clouds[-1].width)
                server.kill()
                with (
                    peer.listening(kind("DiagnosticArray"), "/diagnostics") as told,
                    peer.listening(kind("Image"), "/mirage/image_raw") as frames,
                ):
                    move = messages.twist_message([0.2, 0.0, 0.0], [0.0] * 3)
                    peer.insist("/cmd_vel", move, lambda: any("server" in m.status[0].message for m in told))
                    seen = len(frames)
                    peer.wait_for(lambda: len(frames) > seen + 5)  # its last state goes on being shown
                with served() as again:
                    walks_on(node)
                    node.interrupt()
                    assert node.wait(PATIENCE) == 0, node.output
                    with Client(given["server"]) as client:
                        assert not client.worlds(), "those of a node that has ended"
                    assert again.alive
            assert "chunks are generated again" in node.output
            assert "Traceback" not in node.output
    finally:
        peer.close()
    model = walled_world_model()
    view = start_view(model.config, WorldParameters(**options))
    _, world = model.start(view.image, view.camera, view.depth, 3)
    cameras, walked = open_cache(store).cameras[1:], load_world(store, model)
    while cameras:
        count = model.config.frames_of(world.chunk)
        _, world = model.step(world, cameras[:count])
        cameras = cameras[count:]
    assert walked.chunk == world.chunk > 3
    assert torch.equal(walked.latents, world.latents)
    for mine, its in zip(world.memory.blocks, walked.memory.blocks, strict=True):
        np.testing.assert_array_equal(mine.values(), its.values())
