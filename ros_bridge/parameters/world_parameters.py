"""The parameters of `world_node`: one table of names, defaults, ranges and meanings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mirage_env.camera import CAMERA_HEIGHTS, check_camera_height
from mirage_env.errors import InvalidOptionError
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.motion.motion_commands import Limits
from ros_bridge.sensing.camera_mount import CameraMount, mount_from_euler

MOUNTED = 1.2
"""Height of a camera above the floor where it is not known, metres; depth is not fitted to it."""
TWISTS = ("auto", "Twist", "TwistStamped")
LOADING = ("model", "device", "offload", "control", "lora", "steps", "negative_prompt", "guidance_scale", "threads")
"""Parameters of a model that is loaded here."""


@dataclass(frozen=True)
class Frames:
    """Names of the frames of a world, with their prefix."""

    map: str
    odom: str
    """Empty without odometry."""
    base: str
    optical: str


def _parameter(
    default: str | bool | int | float,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    live: bool = False,
) -> Any:
    """One row: `low` and `high` include their ends; a `live` parameter acts at once, others on configure."""
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high, "live": live})


@dataclass(frozen=True)
class WorldParameters:
    """Parameters of `world_node`. The range of a number includes its ends.

    Raises:
        InvalidOptionError: a value of the wrong type or out of its range, or names that must differ and do not.
    """

    model: str = _parameter("rooms", "world model: a shipped name, a folder, or a hub id")
    device: str = _parameter("cpu", "where the networks run, such as cuda")
    offload: str = _parameter("none", "full-size models: none, model or group (docs/full_size.md)")
    control: str = _parameter("", "full-size models: the trained side branch; empty: none, or the model's own")
    lora: str = _parameter("", "full-size models: the update that goes with it; empty: none, or the model's own")
    steps: int = _parameter(0, "sampler steps per chunk; 0: the model's own", 0, 1000)
    prompt: str = _parameter("", "full-size models: what a world that is opened looks like")
    negative_prompt: str = _parameter("", "full-size models: text to be led away from; empty: the model's own")
    guidance_scale: float = _parameter(
        0.0, "full-size models: how closely prompts are followed, 1: without guidance; 0: the model's own", 0.0, 100.0
    )
    server: str = _parameter("", "address of a world server whose model is used, such as http://host:8400; empty: none")
    token_file: str = _parameter("", "text file with the token of that server; empty: it asks for none")
    start_image: str = _parameter("", "picture to open the world with; empty: a view of the rooms simulator by seed")
    fov: float = _parameter(0.0, "horizontal field of view of start_image, degrees; 0: the model's own", 0.0, 179.0)
    seed: int = _parameter(0, "seed of the world's noise, and of the room it begins in", 0, 2**31 - 1)
    store: str = _parameter("", "folder or file:// URL of the cache that every chunk is written to; empty: none")
    store_frames: bool = _parameter(False, "also keep the images in the cache")
    resume: bool = _parameter(
        False, "go on from the cache at store if there is one; without it a cache that is there is an error"
    )
    threads: int = _parameter(0, "CPU threads of the networks; 0: as many as the library takes", 0, 256)

    rate: float = _parameter(0.0, "frames shown per second; 0: the model's own", 0.0, 240.0)
    publish_clock: bool = _parameter(False, "publish /clock, by which the world plays; for nodes with use_sim_time")
    clock_factor: float = _parameter(1.0, "seconds of /clock per second: below 1 slower than real time", 0.01, 100.0)
    publish_width: int = _parameter(0, "width of published images, pixels; 0: the model's", 0, 8192)
    publish_height: int = _parameter(0, "height of published images, pixels; 0: the model's", 0, 8192)
    jpeg_quality: int = _parameter(85, "quality of image_raw/compressed", 1, 100, live=True)
    points_rate: float = _parameter(0.5, "clouds of ~/points per second; 0: none", 0.0, 10.0)
    scan_bearings: int = _parameter(180, "bearings of ~/scan over the field of view", 2, 4096)
    obstacle_low: float = _parameter(0.2, "height above the floor from which points are obstacles, m", 0.0, 10.0)
    obstacle_high: float = _parameter(1.5, "height up to which points are obstacles, m", 0.0, 100.0)
    grid_rate: float = _parameter(0.5, "occupancy grids of ~/map per second; 0: none", 0.0, 10.0)
    grid_resolution: float = _parameter(0.1, "size of a cell of ~/map, m", 0.01, 10.0)

    cmd_vel_type: str = _parameter("auto", "type of cmd_vel: Twist, TwistStamped, or auto for that of its publisher")
    planar: bool = _parameter(True, "the base stays on the floor and level; false: it flies")
    max_speed: float = _parameter(1.0, "largest speed, m/s", 0.01, 100.0, live=True)
    max_turn: float = _parameter(1.0, "largest rate of turn, rad/s", 0.01, 20.0, live=True)
    cmd_timeout: float = _parameter(
        0.5, "a velocity that is not renewed for so many seconds stops; 0: never", 0.0, 60.0, live=True
    )

    frame_prefix: str = _parameter("", "put before every frame, such as robot1/; not before one that begins with /")
    map_frame: str = _parameter("map", "frame the world is in (REP-103)")
    odom_frame: str = _parameter("odom", "frame of ~/odom, at the map's place; empty: none, and no odometry")
    base_frame: str = _parameter("base_link", "frame of the moving body (REP-103), on the floor")
    optical_frame: str = _parameter("camera_optical_frame", "frame of the images (OpenCV axes)")
    camera_height: float = _parameter(
        0.0,
        "camera above the floor, m; estimated depth is then fitted to that floor (a room of the simulator has its own "
        f"height); 0: not known, {MOUNTED:g} is taken for the mount",
        0.0,
        CAMERA_HEIGHTS[1],
    )
    camera_tilt: float = _parameter(0.0, "degrees that the camera looks down; a room has its own", -89.0, 89.0)

    autostart: bool = _parameter(True, "configure and activate when the node starts")
    start_on_image: bool = _parameter(
        True, "the first start view opens a world, later ones wait for ~/reset; false: all wait", live=True
    )
    start_depth: bool = _parameter(False, "a start view needs ~/start/depth too")
    rectified: bool = _parameter(False, "images of ~/start and ~/observe are rectified, whatever their CameraInfo says")
    sync_slop: float = _parameter(0.03, "seconds that stamps of an image and its depth may differ", 0.0, 1.0)

    observe: bool = _parameter(False, "listen to ~/observe: a robot's RGB-D views become part of the world")
    observe_frame: str = _parameter("map", "fixed frame of the robot, where the world is anchored")
    observe_body: str = _parameter("base_link", "frame of the body whose poses ~/observe/pose gives")
    observe_mount: str = _parameter(
        "", "the optical frame on observe_body where /tf lacks it: x y z roll pitch yaw of the camera, m and degrees"
    )
    observe_overlap: float = _parameter(
        0.9, "a view of which the world knows a larger share is left out", 0.0, 1.0, live=True
    )
    observe_wait: float = _parameter(
        2.0, "seconds that a view waits for poses that come later than it", 0.0, 60.0, live=True
    )

    save_path: str = _parameter("", "where ~/save writes: a folder, or a file that ends in .zip", live=True)
    load_path: str = _parameter("", "the cache, or number of a fork, that ~/load goes on from", live=True)
    fork_path: str = _parameter("", "a new cache for the copy that ~/fork makes; empty: in memory", live=True)
    rollback_chunks: int = _parameter(1, "how many chunks ~/rollback undoes", 1, 1000, live=True)

    @property
    def full_size(self) -> dict[str, Any]:
        """Options of `load_world_model` that differ from its own."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("control", "lora", "steps")}
        given |= {"negative_prompt": self.negative_prompt, "guidance_scale": self.guidance_scale}
        given["offload"] = "" if self.offload == "none" else self.offload
        return {name: value for name, value in given.items() if value}

    def __post_init__(self) -> None:
        for row in fields(self):
            _check(row.name, getattr(self, row.name), row.type, row.metadata["low"], row.metadata["high"])
        required = (self.map_frame, self.base_frame, self.optical_frame)
        frames = (*required, *([self.odom_frame] if self.odom_frame else []))
        if not all(required) or len(set(frames)) != len(frames):
            raise InvalidOptionError(
                f"map_frame, base_frame, optical_frame and odom_frame are {frames}; give different names"
            )
        if self.cmd_vel_type not in TWISTS:
            raise InvalidOptionError(f"cmd_vel_type is {self.cmd_vel_type!r}; choose one of {', '.join(TWISTS)}")
        given = [row.name for row in fields(self) if row.name in LOADING and getattr(self, row.name) != row.default]
        if self.server and given:
            raise InvalidOptionError(f"{', '.join(given)} are up to the server {self.server}; leave them out")
        if self.token_file and not self.server:
            raise InvalidOptionError("token_file belongs to server; give that too")
        if self.obstacle_low >= self.obstacle_high:
            raise InvalidOptionError(
                f"obstacle_low is {self.obstacle_low} and obstacle_high {self.obstacle_high}; the first must be lower"
            )
        if self.camera_height:
            check_camera_height(self.camera_height)
        self.mount_of_robot()
        if self.observe and self.frames.base == self.observe_body:
            raise InvalidOptionError(
                f"observe listens to a robot that publishes {self.observe_body} itself; give a frame_prefix for the "
                "frames of the world, such as imagined/"
            )
        if (self.publish_width == 0) != (self.publish_height == 0):
            raise InvalidOptionError(
                f"publish_width is {self.publish_width} and publish_height {self.publish_height}; give both, or neither"
            )

    @property
    def frames(self) -> Frames:
        """Names of the frames with their prefix."""
        names = (self.map_frame, self.odom_frame, self.base_frame, self.optical_frame)
        return Frames(*(name[1:] if name[:1] == "/" else name and self.frame_prefix + name for name in names))

    @property
    def limits(self) -> Limits:
        """Largest speeds, and how long a velocity holds."""
        return Limits(self.max_speed, self.max_turn, self.cmd_timeout)

    @property
    def start_mount(self) -> CameraMount:
        """Mount of the camera of a start view without a pose."""
        return CameraMount.looking(self.camera_height or MOUNTED, math.radians(self.camera_tilt), self.planar)

    def mount_of_robot(self) -> Matrix | None:  # [4, 4]
        """`T_body_optical` of `observe_mount`; None where it is empty.

        Raises:
            InvalidOptionError: not six finite numbers.
        """
        if not self.observe_mount:
            return None
        try:
            x, y, z, *degrees = map(float, self.observe_mount.replace(",", " ").split())
            roll, pitch, yaw = map(math.radians, degrees)
        except ValueError:
            x = y = z = roll = pitch = yaw = math.nan
        if not all(map(math.isfinite, (x, y, z, roll, pitch, yaw))):
            raise InvalidOptionError(
                f"observe_mount is {self.observe_mount!r}; give x y z roll pitch yaw, m and degrees"
            )
        return mount_from_euler((x, y, z), (roll, pitch, yaw))

    @property
    def store_folder(self) -> Path | None:
        """Folder of the cache; None without one.

        Raises:
            InvalidOptionError: a URL that is no local folder.
        """
        return local_path("store", self.store)


def local_path(name: str, place: str) -> Path | None:
    """The local path of a parameter that holds a path or file URL; None where it is empty.

    Raises:
        InvalidOptionError: a URL of another kind.
    """
    if not place:
        return None
    url = urlsplit(place)
    if "://" not in place:
        return Path(place).expanduser()
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        raise InvalidOptionError(f"{name} is {place!r}; the node writes to local folders: give a path or file:///path")
    return Path(unquote(url.path))


def _check(name: str, value: Any, kind: Any, low: float | None, high: float | None) -> None:
    wrong = type(value).__name__ != kind  # annotations are text; a bool is no int here
    if not wrong and low is not None and high is not None:
        wrong = not (math.isfinite(value) and low <= value <= high)
    if wrong:
        allowed = f"{kind}" if low is None else f"{kind} from {low:g} to {high:g}"
        raise InvalidOptionError(f"the parameter {name} is {value!r}; give a value of type {allowed}")
