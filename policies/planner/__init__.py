"""Planning inside a world model: candidate paths are scored in what the memory shows (CEM, MPPI)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
