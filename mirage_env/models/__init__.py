"""Models: the networks behind the Protocols of `interfaces.py`, and `load_world_model`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
