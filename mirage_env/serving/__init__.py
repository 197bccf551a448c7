"""Serving (`mirage serve`): many worlds of one model behind HTTP and WebSocket, with forks, and clients for them.

A `Service` carries out requests and survives crashes; `serving` runs it at an address. `Client` and `AsyncClient` speak
to it, and `RemoteEnv` (`Mirage/Remote-v0`) is the learned world as an environment whose model runs elsewhere.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
