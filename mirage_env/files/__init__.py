"""Guarded readers for files from strangers: regular files of a stated size, JSON, pictures, text for a terminal."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
