"""The store: a world on disk as one Zarr hierarchy (`mirage_cache` version 1, see docs/store.md).

A cache grows by one step at a time. What a step adds is written first, to places that no committed step refers to; then
one small file, the commit marker, is replaced. Readers trust the marker and nothing else, neither shapes nor listings,
so a killed writer loses at most the steps in flight.

`save_world` writes in one go, to a folder, a `.zip` or an object store; `CacheWriter` appends after each step, in a
thread of its own. `load_world` gives the `WorldState` back; `open_cache` describes what is there without a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
