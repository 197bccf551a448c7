"""Files of models: hub downloads, safetensors, strict loading, published layouts, fingerprints."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
