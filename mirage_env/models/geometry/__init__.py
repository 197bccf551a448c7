"""Depth and segmentation networks of others behind our Protocols: Depth Anything, Depth Pro, SAM 3, Qwen3-VL."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
