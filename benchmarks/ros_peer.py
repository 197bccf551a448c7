"""The other side of benchmarks/bridge.py: a plain rclpy program that knows nothing of Mirage, in a process of its own.

It needs rclpy and message packages only, so that it runs under another ROS release. Writes one JSON object.

    python benchmarks/ros_peer.py listen --topic /mirage/image_raw --seconds 10 --turn 0.3
    python benchmarks/ros_peer.py exchange --seconds 20
"""

import argparse
import importlib
import itertools
import json
import math
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Twist
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

WORLD = "/mirage"
CONNECT_SECONDS = 120.0
DRIVE_SECONDS = 0.1


def quality(reliable: bool, depth: int) -> QoSProfile:
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(reliability=reliability, history=HistoryPolicy.KEEP_LAST, depth=depth)


def stamp_of(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Peer:
    """The node, what it has heard from /diagnostics, and the velocity that it sends."""

    def __init__(self, forward: float, turn: float) -> None:
        self.node = rclpy.create_node("mirage_peer")
        self.diagnostics: list[dict[str, str]] = []
        self.poses: list[tuple[int, tuple[float, ...]]] = []  # stamp, position and quaternion
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 5)
        self.velocity = Twist()
        self.velocity.linear.x, self.velocity.angular.z = forward, turn
        self._drive = self.node.create_publisher(Twist, "/cmd_vel", 5)
        if forward or turn:
            self.node.create_timer(DRIVE_SECONDS, lambda: self._drive.publish(self.velocity))

    def hear_poses(self) -> None:
        self.node.create_subscription(PoseStamped, f"{WORLD}/pose", self._on_pose, quality(True, 100))

    def until(self, done, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.05)
        return bool(done())

    def call(self, name: str) -> str:
        client = self.node.create_client(Trigger, f"{WORLD}/{name}")
        if not self.until(client.service_is_ready, 10.0):
            return "no such service"
        answer = client.call_async(Trigger.Request())
        if not self.until(answer.done, 30.0):
            return "no answer"
        return "ok" if answer.result().success else f"refused: {answer.result().message}"

    def _on_diagnostics(self, message) -> None:
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        self.diagnostics.append({"time": time.time(), **values})

    def _on_pose(self, message) -> None:
        p, q = message.pose.position, message.pose.orientation
        self.poses.append((stamp_of(message), (p.x, p.y, p.z, q.x, q.y, q.z, q.w)))


def listen(peer: Peer, options: argparse.Namespace) -> dict:
    """Rate, latency and losses of the images of a topic; without one only poses and diagnostics."""
    arrivals: list[tuple[float, float]] = []  # seconds of a steady clock, age in seconds
    stamps: list[int] = []

    def on_image(message) -> None:
        arrivals.append((time.monotonic(), 1e-9 * (time.time_ns() - stamp_of(message))))
        stamps.append(stamp_of(message))

    if options.poses:
        peer.hear_poses()
    if options.topic:
        package, _, kind = options.kind.split("/")
        message_type = getattr(importlib.import_module(f"{package}.msg"), kind)
        peer.node.create_subscription(message_type, options.topic, on_image, quality(options.reliable, 5))
    heard = stamps if options.topic else peer.poses if options.poses else peer.diagnostics
    connected = peer.until(lambda: heard, CONNECT_SECONDS)
    peer.until(lambda: False, options.settle)
    first, cpu = len(arrivals), time.process_time()
    peer.until(lambda: False, options.seconds)
    cpu = time.process_time() - cpu
    latencies = [1e3 * age for _, age in arrivals[first:]]
    times = [at for at, _ in arrivals[first:]]
    found: dict = {"connected": connected, "poses": peer.poses[:1] + peer.poses[-1:], "diagnostics": peer.diagnostics}
    if len(times) > 1:
        found |= {
            "frames": len(times),
            "hz": (len(times) - 1) / (times[-1] - times[0]),
            "longest_gap_ms": 1e3 * max(b - a for a, b in itertools.pairwise(times)),
            "latency_p50_ms": percentile(latencies, 0.5),
            "latency_p95_ms": percentile(latencies, 0.95),
            "peer_cpu_share": cpu / options.seconds,
        }
    if options.poses and len(times) > 1:
        # Every frame has a pose of the same stamp, small and sent reliably: a stamp without an image is a lost frame.
        expected = {stamp for stamp, _ in peer.poses if stamps[first] <= stamp <= stamps[-1]}
        found |= {"lost": len(expected - set(stamps)), "sent": len(expected)}
    return found


def exchange(peer: Peer, options: argparse.Namespace) -> dict:
    """Images, poses, commands and services with a world node: what came, and what it answered."""
    seen = {"image_raw": 0, "image_raw/compressed": 0, "camera_info": 0}
    sizes: set[tuple[int, int]] = set()

    def counting(name: str):
        def on_message(message) -> None:
            seen[name] += 1
            if name == "image_raw" and len(message.data) == message.step * message.height:
                sizes.add((message.width, message.height))

        return on_message

    for name, kind in {"image_raw": Image, "image_raw/compressed": CompressedImage, "camera_info": CameraInfo}.items():
        peer.node.create_subscription(kind, f"{WORLD}/{name}", counting(name), quality(False, 5))
    peer.hear_poses()
    peer.until(lambda: all(seen.values()) and peer.poses, CONNECT_SECONDS)
    peer.until(lambda: False, options.seconds)
    moved = math.dist(peer.poses[0][1][:3], peer.poses[-1][1][:3]) if peer.poses else 0.0
    services = {name: peer.call(name) for name in ("save", "rollback", "reset")}
    return {"received": {**seen, "pose": len(peer.poses)}, "sizes": sorted(sizes), "moved": moved, "services": services}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("listen", "exchange"))
    parser.add_argument("--topic", default="")
    parser.add_argument("--kind", default="sensor_msgs/msg/Image")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=2.0)
    parser.add_argument("--forward", type=float, default=0.0)
    parser.add_argument("--turn", type=float, default=0.0)
    parser.add_argument("--reliable", action="store_true")
    parser.add_argument("--poses", action="store_true")
    options = parser.parse_args()
    rclpy.init(args=[])
    peer = Peer(options.forward, options.turn)
    found = (listen if options.what == "listen" else exchange)(peer, options)
    peer.node.destroy_node()
    rclpy.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
