"""Statistics of a playing world as `diagnostic_msgs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ros_bridge import _ros
from ros_bridge.messages.message_types import time_message
from ros_bridge.player.statistics import PlayerStats

MILLI, MEBI = 1e-3, 2.0**20


def diagnostics_message(
    name: str,
    stamp: int,  # nanoseconds
    stats: PlayerStats | None,
    refused: Mapping[str, int],
    publish_seconds: float,
    trouble: str | None,
    counts: Mapping[str, int] = {},
) -> Any:
    """`DiagnosticArray` with one status.

    Args:
        name: of the status; that of the node.
        stamp: now.
        stats: of the player; None where there is no world.
        refused: how often input was refused, by kind.
        publish_seconds: mean time of making and publishing one frame of late.
        trouble: what has just gone wrong; None where all is well.
        counts: more to show, by name.
    """
    status = _ros.DiagnosticStatus(name=name, hardware_id="mirage", level=_ros.DiagnosticStatus.OK, message="streams")
    values: dict[str, str] = {}
    if stats is None:
        status.level, status.message = _ros.DiagnosticStatus.STALE, "no world; configure the node"
    else:
        status.message = "paused" if stats.paused else "moves" if stats.moving else "stands"
        values = _values(stats, publish_seconds)
        trouble = stats.store_failure or stats.error or trouble
    if trouble is not None:
        status.level, status.message = _ros.DiagnosticStatus.WARN, trouble
    values |= {name: str(count) for name, count in counts.items()}
    values["refused inputs"] = str(sum(refused.values()))
    values |= {f"refused {kind}": str(count) for kind, count in sorted(refused.items())}
    status.values = [_ros.KeyValue(key=key, value=value) for key, value in values.items()]
    message = _ros.DiagnosticArray(status=[status])
    message.header.stamp = time_message(stamp)
    return message


def _values(stats: PlayerStats, publish_seconds: float) -> dict[str, str]:
    return {
        "frames per second": f"{stats.frames_per_second:.2f}",
        "frames": str(stats.frames),
        "repeated frames": str(stats.held),
        "late frames": str(stats.late),
        "chunk": str(stats.chunk),
        "dropped chunks": str(stats.dropped),
        "failed chunks": str(stats.errors),
        "chunk latency, ms": f"{stats.latency / MILLI:.1f}",
        "chunk latency p95, ms": f"{stats.latency_p95 / MILLI:.1f}",
        "publish, ms per frame": f"{publish_seconds / MILLI:.2f}",
        "memory points": str(stats.points),
        "memory, MiB": f"{stats.nbytes / MEBI:.2f}",
        "store": stats.store or "none",
        "store lag, chunks": str(stats.store_pending),
        "store committed, chunks": str(stats.store_committed),
        "store failure": stats.store_failure or "none",
        "last error": stats.error or "none",
    }
