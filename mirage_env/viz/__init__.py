"""Visualisation: videos, contact sheets, maps of the memory, walk pages, Rerun recordings."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
