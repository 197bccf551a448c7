"""Spaces: actions (where the camera of a chunk goes), observations, and options of `reset`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
