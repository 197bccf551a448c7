"""The viewer (`mirage view`): a world in the browser, driven and seen while it grows.

A `Session` holds worlds and carries out commands, and needs no browser; a `Page` shows a session in browsers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
