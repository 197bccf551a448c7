"""Episodes: what happened between a reset and the end, as a value, as a file, and in other formats."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
