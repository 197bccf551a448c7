"""Memory: lift a view's latents to world points, decide which are written, and read them at new cameras."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
