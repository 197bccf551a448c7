"""Training of a world model from clips of images, depth and poses, in stages (docs/training.md)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
