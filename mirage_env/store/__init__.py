"""The store: a world on disk, one Zarr format (`mirage_cache` version 2, see docs/store.md).

A cache grows by one step at a time. What a step adds is written first, to places that no committed step refers to; then
one small file, the commit marker, is replaced. Readers trust the marker and nothing else, neither shapes nor listings,
so a killed writer loses at most the steps in flight.

`save_world` writes in one go, to a folder, a `.zip` or an object store; `CacheWriter` appends after each step, in a
thread of its own. `load_world` gives the `WorldState` back; `open_cache` tells what is there without a model.

    caches.py    save, load, copy, compact            writer.py    CacheWriter
    contents.py  a world as it is stored              reader.py    reading at one commit
    steps.py     what a step changes                  writing.py   carrying it out
    entries.py   a block's row of the table, lazily   marker.py    the commit marker
    columns.py   the arrays and their files           places.py    folder, zip, object store
    history.py   WorldHistory: branches and tags      version1.py  reading old caches
"""

from mirage_env.store.cache_writer import CacheWriter
from mirage_env.store.format.world_contents import CacheInfo
from mirage_env.store.icechunk_history import WorldHistory
from mirage_env.store.world_io import compact, copy_cache, load_frames, load_world, open_cache, save_world

__all__ = [
    "CacheInfo",
    "CacheWriter",
    "WorldHistory",
    "compact",
    "copy_cache",
    "load_frames",
    "load_world",
    "open_cache",
    "save_world",
]
