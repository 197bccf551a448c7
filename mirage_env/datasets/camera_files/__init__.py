"""Camera files of others (COLMAP, nerfstudio, npz, KITTI, TUM, RealEstate10K, Open3D), found by their content."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
