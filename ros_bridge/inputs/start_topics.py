"""Handler of ~/start: views of a real camera to open a world with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import StartView
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.rgbd_topics import RgbdMessages, RgbdTopics
from ros_bridge.inputs.start_views import on_floor
from ros_bridge.parameters.world_parameters import WorldParameters


class StartTopics:
    """Opens a world with the first view, and keeps the newest one for the next reset.

    Only the first opens by itself: a camera that streams would open a world per frame.

    Args:
        node: the node.
        config: of the model.
        options: the parameters as they are now.
        opened: opens a world with a view.
        keep: keeps a view for the next reset.
        rejected: counts what is refused.
        group: callback group.
    """

    def __init__(
        self,
        node: Any,
        config: WorldModelConfig,
        options: Callable[[], WorldParameters],
        opened: Callable[[StartView], object],
        keep: Callable[[Callable[[], StartView]], None],
        rejected: RejectedInputs,
        group: Any,
    ) -> None:
        self._config, self._options, self._opened, self._keep = config, options, opened, keep
        self._first = True
        self.topics = RgbdTopics(node, "~/start", options(), options().start_depth, self._take, rejected, group)

    def _take(self, found: RgbdMessages) -> None:
        def view() -> StartView:
            made = found.view(self._config)
            o = self._options()
            return on_floor(replace(made, camera=made.camera.at(o.start_mount.camera(np.eye(4)))), o)

        if self._first and self._options().start_on_image:
            opened = view()
            self._first = False
            self._opened(opened)
        else:
            self._keep(view)
