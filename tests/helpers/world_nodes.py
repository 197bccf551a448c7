"""World nodes for tests: a tiny model in a folder, and the parameters to play it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generated_types import can_generate, shared_types
from PIL import Image
from ros_process import PATIENCE, node_arguments
from stand_ins import picture
from worlds import open_minded_model

from mirage_env.models.world_model_loader import save_world_model

RATE = 25.0
START_SECONDS = 2.0 * PATIENCE
"""Of a node on a machine that is busy; alone it takes two."""


def kind(name: str) -> Any:
    """A class of `_ros`."""
    from ros_bridge import _ros

    return getattr(_ros, name)


def saved_world(folder: Path) -> Path:
    """A folder with a model and a picture to start with; nodes that play it have the generated types."""
    if can_generate():
        shared_types()
    save_world_model(open_minded_model(), folder / "model")
    Image.fromarray(picture()).save(folder / "start.png")
    return folder


def world_parameters(place: Path, **changes: Any) -> dict[str, Any]:
    given = {"model": str(place / "model"), "start_image": str(place / "start.png"), "rate": RATE, "threads": 1}
    return {**given, **changes}


def world_arguments(place: Path, namespace: str = "", **changes: Any) -> list[str]:
    """Arguments of an interpreter that runs the world node."""
    remap = {"__ns": namespace} if namespace else {}
    return node_arguments("ros_bridge.nodes.world_node", world_parameters(place, **changes), remap=remap)


def latched() -> Any:
    return kind("QoSProfile")(depth=1, durability=kind("DurabilityPolicy").TRANSIENT_LOCAL)
