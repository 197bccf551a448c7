"""What the ROS 2 bridge costs and carries; one measure a run, on a machine that does nothing else.

    python benchmarks/bridge.py rate --seconds 60 --out bridge/rate.json
    python benchmarks/bridge.py releases --python ../jazzy/bin/python

`--help` lists the measures. Every figure carries its unit, which way is better, and its bar where there is one.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from ros_drive import write_drive
from ros_figures import Figure, Figures, report, stream
from ros_running import Node, number

from ros_bridge.fastdds_profile import make_room
from ros_bridge.messages.optical_frames import body_from_optical

TURN = 0.2
"""rad/s at which a moving world turns."""


@dataclass(frozen=True)
class Measure:
    """What all have in common."""

    out: Path | None = None
    """Write the figures to this JSON file."""
    model: str = "rooms"
    rate: float = 30.0
    """Frames per second asked for."""
    threads: int = 0
    """CPU threads of the networks; 0: as many as the library takes."""

    def node(self, folder: str = "", settings: dict[str, Any] | None = None, **environment: str) -> Node:
        """A world node with the settings of this measure."""
        common = {"model": self.model, "rate": self.rate, "threads": self.threads, **(settings or {})}
        if folder:
            common["store"] = f"{folder}/world.zarr"
        return Node(common, **environment)


@dataclass(frozen=True)
class Rate(Measure):
    """`image_raw` at the model's size, seen from another process: rate, losses, latency, and what publishing costs."""

    seconds: float = 60.0
    reliable: bool = False
    """Subscribe reliably, not with sensor-data QoS."""

    def run(self) -> Figures:
        """The world holding (its last frame is repeated), then moving."""
        options = ["--topic", "/mirage/image_raw", "--poses", *["--reliable"] * self.reliable]
        figures: Figures = {}
        for name, turn in (("holding", 0.0), ("moving", TURN)):
            with self.node() as node:
                alone = _cpu_share(node, self.seconds, turn, [])
                seen = _cpu_share(node, self.seconds, turn, options)
            figures |= stream(f"{name}: ", seen, f"{self.rate:g} +- 0.5")
            cost = seen["node_cpu"] - alone["node_cpu"]
            figures[f"{name}: node, nobody subscribed"] = Figure(100 * alone["node_cpu"], "% of a core", "lower")
            bar = "5" if name == "holding" else ""
            figures[f"{name}: publishing"] = Figure(100 * cost, "% of a core", "lower", bar)
            figures[f"{name}: late frames"] = Figure(
                number(seen["diagnostics"], "late frames"), "since the start", "lower"
            )
        return figures


@dataclass(frozen=True)
class Compressed(Measure):
    """640 x 480 JPEG: rate, and latency from stamp to callback."""

    seconds: float = 60.0
    width: int = 640
    height: int = 480

    def run(self) -> Figures:
        """The world holding, so that the generator does not limit the rate, then moving."""
        options = ["--topic", "/mirage/image_raw/compressed", "--kind", "sensor_msgs/msg/CompressedImage", "--poses"]
        figures: Figures = {}
        for name, turn in (("holding", 0.0), ("moving", TURN)):
            with self.node(settings={"publish_width": self.width, "publish_height": self.height}) as node:
                seen = _cpu_share(node, self.seconds, turn, options)
            figures |= stream(f"{name}: ", seen, f"{self.rate:g}", latency_bar="10")
        return figures


@dataclass(frozen=True)
class Raw(Measure):
    """1280 x 704 raw, by Fast DDS's defaults and as the node is; the peer always has the defaults."""

    seconds: float = 30.0
    width: int = 1280
    height: int = 704

    def run(self) -> Figures:
        """The world holding."""
        options = ["--topic", "/mirage/image_raw", "--poses"]
        figures: Figures = {}
        ways = {
            "default": {"FASTDDS_BUILTIN_TRANSPORTS": "DEFAULT"},
            "UDP only": {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
            "node with its profile": {},
        }
        for name, way in ways.items():
            with self.node(settings={"publish_width": self.width, "publish_height": self.height}, **way) as node:
                seen = _cpu_share(node, self.seconds, 0.0, options)
            figures |= stream(f"{name}: ", seen, "")
        limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
        figures["net.core.rmem_max"] = Figure(limit, "bytes", "")
        return figures


@dataclass(frozen=True)
class Cost(Measure):
    """What the bridge adds to a chunk while nobody subscribes: CPU time of the node against that of the bare model."""

    seconds: float = 60.0

    def run(self) -> Figures:
        """Holding: what the stream itself takes. Moving: the whole node, less the same chunks without it."""
        from mirage_env.models.world_model_loader import load_world_model

        model = load_world_model(self.model)
        period = model.config.frames_per_chunk / self.rate
        with self.node() as node:
            holding = _cpu_share(node, self.seconds, 0.0, [])
            moving = _cpu_share(node, self.seconds, TURN, [])
        chunks = _chunks(moving["diagnostics"], self.seconds)
        bare = _bare_chunks(model, max(10, int(chunks)), self.threads, TURN * period)
        whole = moving["node_cpu"] * self.seconds / chunks if chunks else math.nan
        return {
            "stream, per chunk": Figure(1e3 * holding["node_cpu"] * period, "ms", "lower", "3"),
            "node, per chunk": Figure(1e3 * whole, "ms of CPU", "lower"),
            "bare model, per chunk": Figure(1e3 * bare, "ms of CPU", "lower"),
            "node less bare model, per chunk": Figure(1e3 * (whole - bare), "ms of CPU", "lower", "3"),
            "chunks": Figure(chunks, "chunks", "higher"),
        }


@dataclass(frozen=True)
class Soak(Measure):
    """A long walk at full rate with a store: memory, the store, threads, and the end by SIGINT."""

    minutes: float = 30.0

    def run(self) -> Figures:
        """Growth is told for the second half, where everything is warm."""
        from mirage_env.store import open_cache

        with tempfile.TemporaryDirectory() as folder, self.node(folder) as node:
            seconds = 30.0 * self.minutes
            options = ["--topic", "/mirage/image_raw", "--poses", "--forward", "0.1", "--turn", str(TURN)]
            node.peer("listen", *options, seconds=seconds)
            before = node.resident()
            seen = node.peer("listen", *options, seconds=seconds)
            growth = node.resident() - before
            last = number(seen["diagnostics"], "chunk")
            ended = node.interrupt()
            stored = open_cache(_newest(folder)).chunks
            told = seen["diagnostics"]
            memory = number(told, "memory, MiB") - number(told[:1], "memory, MiB")
            threads = next((x for x in node.lines if x.startswith("threads left:")), "threads left: not told").strip()
            status = node.process.returncode
        return {
            **stream("second half: ", seen, ""),
            "resident memory, growth": Figure(growth, "MiB in the second half", "lower"),
            "of that, the world's memory": Figure(memory, "MiB", ""),
            "unexplained growth": Figure(growth - memory, "MiB in the second half", "lower", "about 0"),
            "chunks told and not stored": Figure(max(0.0, last - stored), "chunks", "lower", "0"),
            "chunks stored": Figure(stored, "chunks", "higher"),
            "time from SIGINT to the end": Figure(ended, "s", "lower", "2"),
            "exit status": Figure(status, "", "", "0"),
            "threads": Figure(threads.removeprefix("threads left: "), "", "", "[]"),
        }


@dataclass(frozen=True)
class Kill(Measure):
    """`kill -9` again and again; each time the node must go on from its cache at the same pose."""

    times: int = 20
    seconds: float = 4.0
    """How long it walks before each kill."""

    def run(self) -> Figures:
        """An acknowledged chunk is one that /diagnostics has told as on disk."""
        from mirage_env.store import open_cache

        lost = wrong = refused = 0
        stored, began = 0, 0.0
        options = ["--poses", "--forward", "0.1", "--turn", str(TURN), "--settle", "0"]
        with tempfile.TemporaryDirectory() as folder:
            for i in range(self.times):
                start = time.perf_counter()
                # Shared memory of a process that is killed stays behind: UDP.
                with self.node(folder, {"resume": True}, FASTDDS_BUILTIN_TRANSPORTS="UDPv4") as node:
                    still = node.peer("listen", "--poses", "--settle", "0", seconds=0.5)
                    began = max(began, time.perf_counter() - start)
                    if i:
                        wrong += _distance(still["poses"], open_cache(_newest(folder))) > 1e-6
                    seen = node.peer("listen", *options, seconds=self.seconds + 0.1 * (i % 10))
                    told = seen["diagnostics"]
                    acknowledged = number(told, "chunk") - number(told, "store lag, chunks")
                    node.kill()
                about = open_cache(_newest(folder))
                refused += about.chunks <= stored
                lost += int(acknowledged - about.chunks) if about.chunks < acknowledged else 0
                stored = about.chunks
        return {
            "kills": Figure(self.times, "kills", "higher", "20"),
            "acknowledged chunks lost": Figure(lost, "chunks", "lower", "0"),
            "resumed at another pose": Figure(wrong, "times", "lower", "0"),
            "resumed and did not go on": Figure(refused, "times", "lower", "0"),
            "chunks at the end": Figure(stored, "chunks", "higher"),
            "longest start until the first pose": Figure(began, "s", "lower"),
        }


@dataclass(frozen=True)
class Releases(Measure):
    """A world node of this release and a peer of another exchange images, poses, commands and services."""

    python: Path = Path("python")
    """The interpreter of the other release: a virtual environment with ros-rclpy[fastrtps]==7.1.6 (Jazzy) and messages
    5.3.6."""
    seconds: float = 20.0

    def run(self) -> Figures:
        """What the peer received and was answered."""
        with tempfile.TemporaryDirectory() as folder, self.node(settings={"save_path": f"{folder}/saved.zarr"}) as node:
            options = ["--forward", "0.3", "--turn", str(TURN)]
            seen = node.peer("exchange", *options, python=str(self.python), seconds=self.seconds)
        figures = {name: Figure(count, "messages", "higher", "> 0") for name, count in seen["received"].items()}
        figures["moved by cmd_vel"] = Figure(seen["moved"], "m", "", "> 0")
        answers = {f"~/{name}": Figure(answer, "", "", "ok") for name, answer in seen["services"].items()}
        return {**figures, **answers}


@dataclass(frozen=True)
class Live(Measure):
    """A robot's RGB-D camera at 10 Hz, best effort, stamps 20 ms apart: it stands, then it drives.

    What becomes of its views, CPU and memory of the node. With tf2_msgs poses come on /tf.
    """

    minutes: float = 5.0
    """Of each."""
    width: int = 640
    height: int = 480
    frames: int = 300
    """Of the way, walked forth and back."""
    way: Path | None = None
    """Folder that keeps the way for the next run."""
    robots: int = 1
    """Robots with a world each, in namespaces, at the same time."""
    compressed: bool = False
    """Send images as JPEG and depth as compressedDepth."""
    default_transport: bool = False
    """The robot publishes with Fast DDS's defaults, not with the shipped profile."""

    def run(self) -> Figures:
        """A world per robot."""
        with tempfile.TemporaryDirectory() as folder:
            drive, found = self.way or Path(folder) / "drive", list[Figures]()
            speed = write_drive(drive, self.frames, self.height, self.width)
            domain = random.SystemRandom().randint(1, 100)
            robots = range(1, self.robots + 1)
            threads = [threading.Thread(target=lambda i=i: found.append(self._robot(i, drive, domain))) for i in robots]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        figures = {name: figure for one in found for name, figure in sorted(one.items())}
        return {"mean speed": Figure(speed, "m/s", ""), "load": Figure(os.getloadavg()[1], "5 minutes", ""), **figures}

    def _robot(self, number_: int, drive: Path, domain: int) -> Figures:
        namespace = f"/robot{number_}"
        settings = {
            "observe": True,
            "frame_prefix": f"imagined{number_}/",
            "observe_body": f"robot{number_}_base",
            "observe_mount": "0 0 0 0 0 0",
            "points_rate": 0.0,
            "grid_rate": 0.0,
            "model": self.model,
            "rate": self.rate,
            "threads": self.threads,
        }
        figures: Figures = {}
        with Node(settings, domain, namespace=namespace) as node:
            if not self.default_transport:
                make_room(node.environment)  # of the peer; the node has it anyway
            options = ["--drive", str(drive), "--world", f"{namespace}/mirage", "--robot", f"robot{number_}"]
            options += ["--compressed"] * self.compressed
            node.peer("listen", *options[2:4], "--settle", "0", seconds=1.0)
            told: dict[str, float] = {}
            for name, more in (("standing", ["--still"]), ("driving", [])):
                cpu, began, resident = node.cpu(), time.perf_counter(), [node.resident()]
                done = threading.Event()
                watcher = threading.Thread(target=_watch, args=(node, resident, done))
                watcher.start()
                seen = node.peer("live", *options, *more, seconds=60.0 * self.minutes)
                done.set()
                watcher.join()
                share = (node.cpu() - cpu) / (time.perf_counter() - began)
                counts = {kind: number(seen["diagnostics"], f"observed views {kind}") for kind in VIEWS}
                counts["refused"] = number(seen["diagnostics"], "refused inputs")
                new = {kind: count - told.get(kind, 0.0) for kind, count in counts.items()}
                told = counts
                reached = sum(new[kind] for kind in ("written", "known", "left out"))
                rows: Figures = {
                    "views sent": Figure(seen["sent"], "views", ""),
                    "views written, known or left out": Figure(reached, "views", "higher", "all but those lost"),
                    "views without a pose, or refused": Figure(new["refused"], "views", "lower", "0"),
                    **{f"views {kind}": Figure(new[kind], "views", "") for kind in VIEWS},
                    "CPU": Figure(100.0 * share, "% of a core", "lower"),
                    "memory points": Figure(number(seen["diagnostics"], "memory points"), "points", ""),
                    "resident memory, by tenth": Figure(_tenths(resident), "MiB", "lower", "bounded"),
                    "latest tick of the robot": Figure(seen["latest_ms"], "ms", "lower"),
                }
                figures |= {f"{namespace[1:]}, {name}: {key}": figure for key, figure in rows.items()}
        return figures


VIEWS = ("written", "known", "left out", "lost on the way")


def _watch(node: Node, resident: list[float], done: threading.Event) -> None:
    while not done.wait(2.0):
        resident.append(node.resident())


def _tenths(values: list[float]) -> str:
    """First value and those at each tenth of the time."""
    return " ".join(f"{values[round(i * (len(values) - 1) / 10)]:.0f}" for i in range(11))


def _cpu_share(node: Node, seconds: float, turn: float, options: list[str]) -> dict[str, Any]:
    """What a peer saw, and the share of a core that the node took meanwhile, start and end of the peer left out."""
    settle = 3.0
    watched: dict[str, float] = {}
    node.peer("listen", "--settle", "0", seconds=1.0)  # the node is up, and has forgotten the last peer

    def watch() -> None:
        time.sleep(settle + 1.0)
        start, cpu = time.perf_counter(), node.cpu()
        time.sleep(max(1.0, seconds - 2.0))
        watched["share"] = (node.cpu() - cpu) / (time.perf_counter() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    seen = node.peer("listen", "--turn", str(turn), "--settle", str(settle), *options, seconds=seconds)
    watcher.join()
    return {**seen, "node_cpu": watched["share"]}


def _chunks(diagnostics: list[dict[str, Any]], seconds: float) -> float:
    """Chunks shown in so many seconds, by the second half of what was told: the first may lie before the movement."""
    told = [(float(d["time"]), number([d], "chunk")) for d in diagnostics[len(diagnostics) // 2 :]]
    if len(told) < 2 or told[-1][0] <= told[0][0]:
        return math.nan
    return seconds * (told[-1][1] - told[0][1]) / (told[-1][0] - told[0][0])


def _bare_chunks(model: Any, chunks: int, threads: int, turn: float) -> float:
    """CPU seconds of `WorldModel.step` per chunk, on the same way."""
    import torch

    from mirage_env.camera import between
    from mirage_env.poses import pose_from_rotation_vector
    from ros_bridge.inputs.start_views import start_view
    from ros_bridge.parameters.world_parameters import WorldParameters

    if threads:
        torch.set_num_threads(threads)
    view = start_view(model.config, WorldParameters())
    _, state = model.start(view.image, view.camera, view.depth)
    T_cam_next = pose_from_rotation_vector(np.zeros(3), [0.0, -turn, 0.0])
    start = 0.0
    for i in range(chunks + 2):
        if i == 2:
            start = time.process_time()
        cameras = between(state.camera, state.camera.moved(T_cam_next), model.config.frames_per_chunk)
        _, state = model.step(state, cameras)
    return (time.process_time() - start) / chunks


def _newest(folder: str) -> Path:
    """The cache that a node goes on from: reset, load and rollback count up."""
    caches = sorted(Path(folder).glob("world*.zarr"), key=lambda p: p.stat().st_mtime)
    return caches[-1]


def _distance(poses: list[Any], about: Any) -> float:
    """How far the first pose that was told lies from the end of the cache's path, metres."""
    T_map_base = body_from_optical(about.cameras[-1].T_world_cam)
    return math.dist(poses[0][1][:3], T_map_base[:3, 3]) if poses else math.inf


MEASURES = (Rate, Compressed, Raw, Cost, Soak, Kill, Releases, Live)


def main(measure: Any) -> None:
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(measure).items() if k != "out"}
    report(type(measure).__name__.lower(), settings, measure.run(), measure.out)


if __name__ == "__main__":
    union: Any = Annotated[Rate, tyro.conf.subcommand("rate")]
    for kind in MEASURES[1:]:
        union = union | Annotated[kind, tyro.conf.subcommand(kind.__name__.lower())]
    main(tyro.cli(union, config=(tyro.conf.FlagCreatePairsOff,)))
