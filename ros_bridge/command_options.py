"""The options of `mirage ros`, a dataclass for each of its commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
Text = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
Settings = Annotated[
    tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE", help_behavior_hint="")
]


@dataclass(frozen=True, kw_only=True)
class Network:
    """Options of the network: domain and discovery range."""

    domain: Count = None
    """Nodes of the same number hear each other, 0 to 101; without it ROS_DOMAIN_ID, or 0."""
    localhost: bool = False
    """Talk to programs on this machine only."""


@dataclass(frozen=True, kw_only=True)
class World(Network):
    """Run the world node: an imagined world as ROS 2 topics. Ctrl-C ends it."""

    rate: Number = None
    """Frames shown per second; without it the model's own."""
    model: Text = None
    """A shipped model, or a folder that holds mirage.json."""
    server: Annotated[str | None, tyro.conf.arg(metavar="URL", help_behavior_hint="")] = None
    """Use the model of this world server (`mirage serve`) instead of one here."""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A text file with the token of that server."""
    image: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Open the world with this picture; without it with a view of the rooms simulator."""
    seed: Count = None
    """Seed of the world, and of the room it begins in."""
    store: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Write every chunk to a cache in this folder."""
    resume: bool = False
    """Go on from the cache at --store, if there is one."""
    param: Settings = ()
    """Any parameter of the node; may be given several times."""


@dataclass(frozen=True, kw_only=True)
class Drives(Network):
    """Let a policy drive the world, or a robot, from the images it sends. Ctrl-C stops both."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A policy that comes with Mirage, or module:function that makes one."""
    rate: Number = None
    """Actions per second."""
    command: Annotated[str | None, tyro.conf.arg(metavar="cmd_vel|goal_pose", help_behavior_hint="")] = None
    """What is sent: velocities (the default) or goals."""
    setting: Settings = ()
    """A setting of the policy, such as speed=0.5; may be given several times."""
    param: Settings = ()
    """Any parameter of the node; may be given several times."""


@dataclass(frozen=True, kw_only=True)
class Topics(Network):
    """List the topics, their types, and how many publish and subscribe."""

    wait: float = 5.0
    """Most seconds to look around."""


@dataclass(frozen=True, kw_only=True)
class Echo(Network):
    """Show what arrives on a topic, until Ctrl-C: a line per second for images, the values of other messages."""

    topic: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TOPIC")]
    """Name of the topic, or an end of it that only one has, such as image_raw."""
    count: Count = None
    """End after so many lines or messages."""
    wait: float = 5.0
    """Seconds to wait for a publisher."""


@dataclass(frozen=True, kw_only=True)
class Drive(Network):
    """Drive with the keyboard."""

    topic: str = "cmd_vel"
    """Topic the velocities go to."""
    stamped: bool = False
    """Send TwistStamped instead of Twist."""
    speed: float = 0.5
    """Metres per second."""
    turn: float = 0.5
    """Radians per second."""


@dataclass(frozen=True, kw_only=True)
class Bag:
    """Write a saved world as a rosbag2 file; needs no ROS.

    The folder (mcap) holds its path, transforms, images and depth. Images that the world does not keep are what its
    memory shows.
    """

    world: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORLD")]
    """The saved world: a folder, a .zip, or the folder of a walk."""
    out: Path
    """Folder of the bag."""
    rate: Number = None
    """Frames per second, if not the world's own."""
    codec: Literal["raw", "jpeg", "png"] = "raw"
    """Encoding of the images."""
    model: Text = None
    """The model that wrote the world; without it the shipped model of its name."""
    poses_only: bool = False
    """Load no model: write the path, and the images that the world keeps."""


@dataclass(frozen=True, kw_only=True)
class Call(Network):
    """Call a service of the world node.

    Services are reset, pause, resume, step, save, load, fork and rollback.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """What to ask for."""
    node: str = "mirage"
    """Name of the node, with its namespace if it has one."""
    wait: float = 5.0
    """Seconds to wait for the node."""
    timeout: float = 120.0
    """Seconds to wait for its answer."""
