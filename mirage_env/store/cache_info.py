"""What is in a cache, in a few words (`CacheInfo`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mirage_env.store import version1
from mirage_env.store.backends.locations import Place
from mirage_env.store.format.world_contents import Attributes, CacheInfo
from mirage_env.store.reader import Opened


def read_info(opened: Opened) -> CacheInfo:
    entries = opened.entries()
    channels = opened.columns["tokens/feature"].shape[0]
    bounds = np.array([entry.bounds for entry in entries]).reshape(-1, 2, 3)
    return _info(
        opened.place,
        opened.attributes,
        chunks=opened.marker.chunk,
        blocks=len(entries),
        points=sum(entry.token.count for entry in entries),
        nbytes=sum(entry.nbytes(channels) for entry in entries),
        bounds=np.stack([bounds[:, 0].min(0), bounds[:, 1].max(0)]) if entries else None,
        cameras=opened.track().cameras(opened.attributes["image_size"]),
        has_frames=opened.marker.images,
    )


def read_old_info(place: Place) -> CacheInfo:
    old = version1.read(place, images=True)
    blocks, track = old.blocks, old.path
    bounds = np.array([block.bounds for block in blocks]).reshape(-1, 2, 3)
    return _info(
        place,
        old.attributes,
        chunks=old.chunk,
        blocks=len(blocks),
        points=sum(len(block) for block in blocks),
        nbytes=sum(block.nbytes for block in blocks),
        bounds=np.stack([bounds[:, 0].min(0), bounds[:, 1].max(0)]) if blocks else None,
        cameras=track.cameras(old.attributes["image_size"]),
        has_frames=track.images is not None,
    )


def _info(place: Place, attributes: Attributes, **counted: Any) -> CacheInfo:
    about = attributes["model"]
    return CacheInfo(
        path=place.name,
        version=attributes["version"],
        model=str(about["name"]),
        identity=str(about["identity"]),
        software=str(attributes["software"]),
        created=str(attributes["created"]),
        frames_per_second=float(about["config"]["frames_per_second"]),
        stored_bytes=place.stored_bytes(),
        **counted,
    )
