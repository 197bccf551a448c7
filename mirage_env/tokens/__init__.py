"""Tokens of the latent memory: packed into immutable blocks, the unit of writing, culling, storing and sharing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
