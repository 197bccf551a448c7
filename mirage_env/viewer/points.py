"""The memory's points in every browser: all of them at rest, fewer while a browser that is slow moves its view.

Without a GPU a browser renders in software, where the time of a frame grows with the number of points. So each browser
gets the points twice, whole and thinned out, and sees one of the two.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from viser import ClientHandle, PointCloudHandle, ViserServer

from mirage_env.viewer.memory_cloud import Cloud
from mirage_env.viewer.view_motion import Motion

FEWER = 6_000
"""Most points of the thinned-out cloud; smaller clouds are always shown whole."""


@dataclass
class _Browser:
    client: ClientHandle
    motion: Motion = field(default_factory=Motion)
    whole: PointCloudHandle | None = None
    thin: PointCloudHandle | None = None
    shows_thin: bool = False


class Points:
    """Draws one cloud at a time, for every browser apart.

    Args:
        server: where; browsers that come later get the cloud as well.
    """

    def __init__(self, server: ViserServer) -> None:
        self._lock = threading.Lock()
        self._cloud: Cloud | None = None
        self._browsers: dict[int, _Browser] = {}
        server.on_client_connect(self._came)
        server.on_client_disconnect(self._left)

    def draw(self, cloud: Cloud) -> None:
        """Show another cloud, everywhere."""
        with self._lock:
            self._cloud = cloud
            for browser in self._browsers.values():
                _send(browser, cloud)

    def settle(self) -> bool:
        """Show all points again where the view has come to rest; whether somebody's view still moves.

        To be called every now and then.
        """
        with self._lock:
            for browser in self._browsers.values():
                self._choose(browser)
            return any(browser.shows_thin for browser in self._browsers.values())

    def _came(self, client: ClientHandle) -> None:
        browser = _Browser(client)
        with self._lock:
            self._browsers[client.client_id] = browser
            if self._cloud is not None:
                _send(browser, self._cloud)

        @client.camera.on_update
        def _(_: object) -> None:
            with self._lock:
                browser.motion.moved(time.monotonic())
                self._choose(browser)

    def _left(self, client: ClientHandle) -> None:
        with self._lock:
            self._browsers.pop(client.client_id, None)

    def _choose(self, browser: _Browser) -> None:
        if browser.whole is None or browser.thin is None:
            return
        thin = browser.motion.slow and browser.motion.is_moving(time.monotonic())
        if thin != browser.shows_thin:
            browser.whole.visible, browser.thin.visible, browser.shows_thin = not thin, thin, thin


def thinned(cloud: Cloud, count: int = FEWER) -> Cloud:
    """At most `count` of the points, evenly chosen and somewhat larger.

    Not as much larger as there are fewer: filling pixels costs as much as points do.
    """
    every = max(1, -(-len(cloud.xyz) // count))
    # Neighbours lie beside each other in a cloud, so every n-th point leaves an even pattern.
    chosen = slice(every // 2, None, every)
    size = cloud.size * every**0.25
    return Cloud(cloud.xyz[chosen], cloud.colours[chosen], size, cloud.origin)


def _send(browser: _Browser, cloud: Cloud) -> None:
    browser.whole = _add(browser.client, "/memory/all", cloud, not browser.shows_thin)
    if len(cloud.xyz) > FEWER:
        browser.thin = _add(browser.client, "/memory/fewer", thinned(cloud), browser.shows_thin)
    else:
        if browser.thin is not None:
            browser.thin.remove()
        browser.thin, browser.shows_thin, browser.whole.visible = None, False, True


def _add(client: ClientHandle, name: str, cloud: Cloud, visible: bool) -> PointCloudHandle:
    return client.scene.add_point_cloud(
        name,
        cloud.xyz,
        cloud.colours,
        point_size=cloud.size,
        point_shape="square",
        point_shading="flat",
        precision="float32",
        position=cloud.origin,
        visible=visible,
    )
