"""Training policies with Stable-Baselines3: worlds that step together, exact resumption, evaluation in both worlds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
