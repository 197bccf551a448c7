"""Networks of the shipped model: convolutional codec, depth, segmentation, refiner, preview decoder."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
