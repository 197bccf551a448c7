"""Policies that drive any environment with Mirage's action space.

They know Gymnasium and not Mirage; only the planner, which plans inside a learned world, and what trains and records
know both.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
