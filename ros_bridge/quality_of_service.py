"""Quality of service of the topics."""

from __future__ import annotations

from typing import Any

from ros_bridge import _ros

DEPTH = 5
"""Messages a publisher keeps for a subscriber that is slow: then the oldest are lost, and nobody waits."""


def stream_quality() -> Any:
    """Reliable, volatile, keep last."""
    return _ros.QoSProfile(depth=DEPTH)


def latched_quality(depth: int = 1, latched: bool = True) -> Any:
    """Reliable, keep last; whoever joins later gets the last message, where it is latched (transient local)."""
    durability = _ros.DurabilityPolicy.TRANSIENT_LOCAL if latched else _ros.DurabilityPolicy.VOLATILE
    return _ros.QoSProfile(depth=depth, durability=durability)


def overridable() -> Any:
    """History, depth and reliability of a topic may be set by parameters."""
    return _ros.QoSOverridingOptions.with_default_policies()
