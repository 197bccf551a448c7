"""Readout: the z-buffer that finds the token each cell of a camera's grid sees, in numba, torch and Triton."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
