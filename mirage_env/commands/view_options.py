"""Options of `mirage view`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mirage_env.camera import check_camera_height
from mirage_env.commands.checks import blaming
from mirage_env.commands.walk import Count, File, Number, Text, World
from mirage_env.errors import InvalidOptionError
from mirage_env.models.model_options import ModelOptions, Networks


@dataclass(frozen=True)
class View:
    """Look at a world in the browser and drive it.

    Opens the saved WORLD, or --image, or else the test room of --seed. The page can open others. Everybody who
    opens the page sees and drives the same worlds. Ctrl-C ends it; what was not saved is gone then.
    """

    world: World = None
    """A saved world: a folder, a .zip, or the folder of a walk."""
    image: File = None
    """Start from this picture, centre-cropped and resized to the model's size."""
    camera_height: Number = None
    """Metres of the camera of --image or --seed above a level floor, where they are known: estimated depth is fitted to
    it."""
    seed: Count = None
    """Start in the test room of this number (7 if nothing is said). With WORLD: the room it was walked in, to see the
    true view beside it."""
    model: Text = None
    """A shipped model, a folder, or a hub id. Without it that of WORLD, or rooms."""
    networks: Networks = field(default_factory=ModelOptions)
    """How models are loaded."""
    caches: Path = Path("caches")
    """The one folder that the page saves to and loads from."""
    host: str = "127.0.0.1"
    """The address to listen at. At any other than loopback the page asks for a token, which is in the address that is
    printed."""
    port: int = 8080
    """The port to listen at, or the next one that is free; 0 for any."""
    server: Text = None
    """Open the page of this server (`mirage serve`) instead of starting one: its address."""
    token: Text = None
    """The token of that server."""
    no_browser: bool = False
    """Do not open a browser."""

    def __post_init__(self) -> None:
        if self.world is not None and self.image is not None:
            raise InvalidOptionError("--image and WORLD were both given; give one to start from")
        with blaming("--camera-height"):
            check_camera_height(self.camera_height)
        if self.world is not None and self.camera_height is not None:
            raise InvalidOptionError("--camera-height: a saved world has its own; leave it out")
        starts = (self.world, self.image, self.seed, self.model, self.camera_height)
        if self.server is not None and starts != (None,) * 5:
            raise InvalidOptionError(
                "--server shows its own worlds; leave WORLD, --image, --seed, --model and --camera-height out"
            )
        if self.token is not None and self.server is None:
            raise InvalidOptionError("--token belongs to --server; a viewer that starts its own server makes one")
        if not 0 <= self.port <= 65535:
            raise InvalidOptionError(f"--port: it is {self.port}; give a number from 0 to 65535")
