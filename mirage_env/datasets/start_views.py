"""Start views of the world that a model was trained on: kept beside its weights, drawn by environments.

start_views/images.npy  depth.npy  labels.npy  intrinsics.npy
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.clips import Clips
from mirage_env.errors import InvalidOptionError, WeightsError
from mirage_env.files import map_npy
from mirage_env.interfaces import SKY, StartView

if TYPE_CHECKING:
    from mirage_env.world_model import WorldModel

FOLDER = "start_views"
ARRAYS = ("images", "depth", "labels", "intrinsics")
MOST = 24
"""Views that a model keeps."""


@dataclass(frozen=True, eq=False)
class OwnViews:
    """Views of clips (`StartViews`): each at the origin, with the lens it was taken with."""

    images: NDArray[np.uint8]  # [N, H, W, 3]
    depth: NDArray[np.float16]  # [N, H, W] metres, 0 unknown, or none where the label is SKY
    labels: NDArray[np.uint8]  # [N, H, W]
    intrinsics: NDArray[np.float64]  # [N, 3, 3]

    def __call__(self, rng: np.random.Generator) -> StartView:
        """Draw a view."""
        i = int(rng.integers(len(self.images)))
        height, width = self.images.shape[1:3]
        depth, labels = self.depth[i].astype(np.float32), np.array(self.labels[i])
        metres = np.where(labels == SKY, np.float32(np.inf), depth)
        camera = Camera(np.eye(4), np.array(self.intrinsics[i], np.float64), height, width)
        return StartView(np.array(self.images[i]), camera, metres, labels=labels)


def save_start_views(clips: Clips, folder: Path) -> None:
    """Keep the first views of some clips in the folder of a model."""
    chosen = np.unique(np.linspace(0, len(clips) - 1, MOST).astype(int))
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    values = (clips.images[chosen, 0], clips.depth[chosen, 0], clips.labels[chosen, 0], clips.intrinsics[chosen])
    for name, value in zip(ARRAYS, values, strict=True):
        np.save(place / f"{name}.npy", value)


def load_start_views(folder: Path) -> OwnViews | None:
    """Read the views that a model keeps; None without any.

    Raises:
        WeightsError: arrays that are damaged or do not belong together.
    """
    place = folder / FOLDER
    if not place.is_dir():
        return None
    try:
        images, depth, labels, intrinsics = (map_npy(place / f"{name}.npy") for name in ARRAYS)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{place} holds no start views that can be read ({error}); copy the model again") from error
    shape = images.shape[:3]
    whole = images.ndim == 4 and images.dtype == np.uint8 and images.shape[3] == 3 and len(images) > 0
    if not whole or depth.shape != shape or labels.shape != shape or intrinsics.shape != (shape[0], 3, 3):
        raise WeightsError(f"{place} holds arrays that do not belong together; copy the model again")
    return OwnViews(images, depth, labels, intrinsics)


def home_view(model: WorldModel, seed: int) -> StartView | None:
    """Draw a start view of the model's own world; None for a model of rooms, which are rendered.

    Raises:
        InvalidOptionError: a model of another world that keeps no views.
    """
    if model.start_views is not None:
        return model.start_views(np.random.default_rng(seed))
    if model.config.trained_on not in ("", "rooms"):
        raise InvalidOptionError(
            f"the model {model.config.name!r} was trained on {model.config.trained_on!r} and keeps no start views; "
            "give an image of its world"
        )
    return None
