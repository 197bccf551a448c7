"""Recordings of real cameras as streams of posed views: RGB-D folders, posed photographs, videos with a pose file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
