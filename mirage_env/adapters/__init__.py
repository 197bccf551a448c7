"""Other simulators as worlds with our spaces: anything that renders colour and depth, and MuJoCo."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
