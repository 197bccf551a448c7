"""Summary of a cache (`CacheInfo`)."""

from __future__ import annotations

import numpy as np

from mirage_env.store.format.root_attributes import VERSION
from mirage_env.store.format.world_contents import CacheInfo
from mirage_env.store.reader import Opened


def read_info(opened: Opened) -> CacheInfo:
    """Describe a cache without reading its tokens."""
    entries, root = opened.entries(), opened.root
    channels = opened.columns["tokens/feature"].shape[0]
    bounds = np.array([entry.bounds for entry in entries]).reshape(-1, 2, 3)
    return CacheInfo(
        path=opened.place.name,
        version=VERSION,
        model=root.model.name,
        identity=root.model.identity,
        software=root.software,
        created=root.created,
        frames_per_second=root.frames_per_second,
        chunks=opened.marker.chunk,
        blocks=len(entries),
        points=sum(entry.token.count for entry in entries),
        nbytes=sum(entry.nbytes(channels, root.image_size) for entry in entries),
        stored_bytes=opened.place.stored_bytes(),
        bounds=np.stack([bounds[:, 0].min(0), bounds[:, 1].max(0)]) if entries else None,
        cameras=opened.track().cameras(root.image_size),
        has_frames=opened.marker.images,
    )
