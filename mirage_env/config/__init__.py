"""Settings of a world model (`mirage.json`): frozen dataclasses, each checked by name, type and range."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
