"""Checks of what an environment of chunks, and a vector environment of them, promises."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
