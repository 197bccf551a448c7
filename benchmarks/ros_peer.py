"""The other side of benchmarks/bridge.py: a plain rclpy program that knows nothing of Mirage, in a process of its own.

It needs rclpy and message packages only, so that it runs under another ROS release. Writes one JSON object.

    python benchmarks/ros_peer.py listen --topic /mirage/image_raw --seconds 10 --turn 0.3
    python benchmarks/ros_peer.py exchange --seconds 20
    python benchmarks/ros_peer.py live --drive FOLDER --seconds 60
"""

import argparse
import importlib
import io
import itertools
import json
import math
import time

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TransformStamped, Twist
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

    def __init__(self, forward: float, turn: float, world: str) -> None:
        self.world = world
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
        if self.world not in [status.name for status in message.status]:
            return  # of another node
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


def encoded(values: np.ndarray, kind: str) -> bytes:
    from PIL import Image as Picture

    file = io.BytesIO()
    Picture.fromarray(values).save(file, kind)
    return file.getvalue()


def live(peer: Peer, options: argparse.Namespace) -> dict:
    """A robot with an RGB-D camera at 10 Hz, best effort, depth 20 ms after the image; its poses come at 50 Hz.

    `--drive` is a folder of ros_drive.py, walked forth and back; `--still` shows its first view only. Poses are on /tf
    where tf2_msgs is installed, else on ~/observe/pose.
    """
    images, depths, poses = (
        np.load(f"{options.drive}/{name}.npy", mmap_mode="r") for name in ("image", "depth", "poses")
    )
    with open(f"{options.drive}/info.json") as file:
        lens = json.load(file)
    try:
        tf_message = importlib.import_module("tf2_msgs.msg").TFMessage
    except ImportError:
        tf_message = None
    names, prefix = ("image", "depth", "camera_info"), f"{options.world}/observe"
    kinds, ends = (Image, Image, CameraInfo), ("", "", "")
    if options.compressed:
        kinds, ends = (CompressedImage, CompressedImage, CameraInfo), ("/compressed", "/compressedDepth", "")
    topics = {
        name: peer.node.create_publisher(kind, f"{prefix}/{name}{end}", quality(False, 5))
        for name, kind, end in zip(names, kinds, ends, strict=True)
    }
    if tf_message is None:
        topics["pose"] = peer.node.create_publisher(PoseStamped, f"{prefix}/pose", quality(True, 100))
    else:
        topics["pose"] = peer.node.create_publisher(tf_message, "/tf", quality(True, 100))
    last = len(poses) - 1

    def stamped(message, stamp: int, frame: str):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        message.header.frame_id = frame
        return message

    packed = {}
    if options.compressed:
        packed = {
            "rgb8": ("jpeg", [encoded(image, "JPEG") for image in images]),
            "16UC1": ("16UC1; compressedDepth png", [bytes(12) + encoded(depth, "PNG") for depth in depths]),
        }

    def picture(values: np.ndarray, encoding: str, stamp: int, shown: int):
        if encoding in packed:
            kind, rows = packed[encoding]
            message = CompressedImage(format=kind)
            message.data.frombytes(rows[shown])
            return stamped(message, stamp, f"{options.robot}_optical")
        values = np.ascontiguousarray(values)
        message = Image(height=values.shape[0], width=values.shape[1], encoding=encoding, step=values[0].nbytes)
        message.data.frombytes(memoryview(values).cast("B"))
        return stamped(message, stamp, f"{options.robot}_optical")

    def place(seconds: float) -> float:
        return 0.0 if options.still else last - abs(10.0 * seconds % (2 * last) - last)

    def pose(seconds: float) -> PoseStamped:
        first, share = divmod(place(seconds), 1.0)
        a, b = poses[int(first)], poses[min(int(first) + 1, last)]
        turn = (1 - share) * a[3:] + share * b[3:] * np.sign(a[3:] @ b[3:])
        message = stamped(PoseStamped(), began + round(1e9 * seconds), "map")
        p, q = message.pose.position, message.pose.orientation
        p.x, p.y, p.z = map(float, (1 - share) * a[:3] + share * b[:3])
        q.x, q.y, q.z, q.w = map(float, turn / np.linalg.norm(turn))
        return message

    def send_pose(seconds: float) -> None:
        message = pose(seconds)
        if tf_message is not None:
            row = TransformStamped(header=message.header, child_frame_id=f"{options.robot}_base")
            p, row.transform.rotation = message.pose.position, message.pose.orientation
            row.transform.translation.x, row.transform.translation.y, row.transform.translation.z = p.x, p.y, p.z
            message = tf_message(transforms=[row])
        topics["pose"].publish(message)

    peer.until(lambda: topics["image"].get_subscription_count() and topics["pose"].get_subscription_count(), 60.0)
    peer.until(lambda: False, 2.0)
    start, began = time.monotonic(), time.time_ns()
    sent, latest = 0, 0.0
    for tick in range(round(50 * options.seconds)):
        while (rest := start + 0.02 * tick - time.monotonic()) > 0.0:
            rclpy.spin_once(peer.node, timeout_sec=rest)
        latest = max(latest, -rest)
        if latest > 0.1 * options.seconds + 10.0:
            break  # a machine that is too busy to be a robot in real time
        seconds = 0.02 * tick
        if tick % 5 == 0:
            shown, stamp = round(place(seconds)), began + round(1e9 * seconds)
            info = CameraInfo(height=lens["height"], width=lens["width"], distortion_model="plumb_bob", d=[0.0] * 5)
            info.k, info.r = lens["k"], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
            topics["camera_info"].publish(stamped(info, stamp, f"{options.robot}_optical"))
            topics["image"].publish(picture(images[shown], "rgb8", stamp, shown))
            sent += 1
        elif tick % 5 == 1:
            topics["depth"].publish(picture(depths[shown], "16UC1", began + round(1e9 * seconds), shown))
        send_pose(seconds - 0.007)  # of no image's time: poses are interpolated
    send_pose(0.02 * tick + 0.1)
    peer.until(lambda: False, 5.0)  # what waits is written
    return {"sent": sent, "diagnostics": peer.diagnostics, "latest_ms": 1e3 * latest, "tf": tf_message is not None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("listen", "exchange", "live"))
    parser.add_argument("--topic", default="")
    parser.add_argument("--kind", default="sensor_msgs/msg/Image")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=2.0)
    parser.add_argument("--forward", type=float, default=0.0)
    parser.add_argument("--turn", type=float, default=0.0)
    parser.add_argument("--reliable", action="store_true")
    parser.add_argument("--poses", action="store_true")
    parser.add_argument("--drive", default="")
    parser.add_argument("--still", action="store_true")
    parser.add_argument("--compressed", action="store_true")
    parser.add_argument("--world", default=WORLD)
    parser.add_argument("--robot", default="robot")
    options = parser.parse_args()
    rclpy.init(args=[])
    peer = Peer(options.forward, options.turn, options.world)
    found = {"listen": listen, "exchange": exchange, "live": live}[options.what](peer, options)
    peer.node.destroy_node()
    rclpy.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
