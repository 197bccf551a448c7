"""Video diffusion with the Wan transformer: side branch, its condition, solvers, LoRA, text encoder, video codec."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
