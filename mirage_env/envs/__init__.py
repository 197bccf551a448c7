"""Gymnasium environments: the learned world, its readout alone, vector environments, wrappers, conformance checks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
