"""Handlers of ~/start/*: views of a real camera to open a world with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidImageError
from mirage_env.interfaces import StartView
from ros_bridge import messages
from ros_bridge.nodes.start_views import camera_view

WAITING = 4
"""Stamps of start views that may wait for what belongs to them."""


class StartTopics:
    """Match images, camera infos and depth images of one stamp.

    Args:
        config: of the model that is to open a world.
        needs_depth: whether a view is complete only with depth.
        opened: takes a view that is complete.
    """

    def __init__(
        self, config: WorldModelConfig, needs_depth: Callable[[], bool], opened: Callable[[StartView], None]
    ) -> None:
        self._config = config
        self._needs_depth = needs_depth
        self._opened = opened
        self._waiting: OrderedDict[int, dict[str, Any]] = OrderedDict()  # by stamp, nanoseconds

    def image(self, message: Any) -> None:
        self._add("image", message)

    def camera_info(self, message: Any) -> None:
        self._add("camera_info", message)

    def depth(self, message: Any) -> None:
        if self._needs_depth():
            self._add("depth", message)

    def _add(self, part: str, message: Any) -> None:
        stamp = messages.nanoseconds(message.header.stamp)
        parts = self._waiting.setdefault(stamp, {})
        parts[part] = message
        needed = {"image", "camera_info", *(("depth",) if self._needs_depth() else ())}
        if needed <= parts.keys():
            self._waiting.clear()  # older ones would take the world back
            self._opened(self._view(parts))
        elif len(self._waiting) > WAITING:
            _, lone = self._waiting.popitem(last=False)
            missing = ", ".join(sorted(needed - lone.keys()))
            raise InvalidImageError(
                f"a start view came without {missing} of the same stamp; send all of {', '.join(sorted(needed))} with "
                "one stamp"
            )

    def _view(self, parts: dict[str, Any]) -> StartView:
        image = messages.image_from_message(parts["image"])
        camera = messages.camera_from_info(parts["camera_info"], size=image.shape[:2])
        depth = messages.depth_from_message(parts["depth"]) if "depth" in parts else None
        return camera_view(self._config, image, camera.K_image, depth)
