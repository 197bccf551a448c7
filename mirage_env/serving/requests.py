"""Requests of a world server: one model for each verb, from which messages are checked and OpenAPI is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_env.errors import ServingError
from mirage_env.serving.metrics import Metrics
from mirage_env.serving.wire import Arrays, Encoding

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Title = Annotated[str, Field(pattern=r"^\w[\w ().'-]{0,39}$")]
"""What people call a world."""
Pose = Annotated[list[Annotated[list[float], Field(min_length=4, max_length=4)]], Field(min_length=4, max_length=4)]
Poses = Annotated[list[Pose], Field(min_length=1, max_length=512)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]
Lens = Annotated[list[Triple], Field(min_length=3, max_length=3)]


class Request(BaseModel):
    """Base of all requests: nothing that is not named, of exactly the types named."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Wanted(Request):
    """Content of an answer besides poses and figures."""

    frames: Encoding | Literal["none"] = "jpeg"
    last_only: bool = False
    """Only the last frame of a chunk."""
    depth: bool = False
    """Depth, metres, float32; of the key frames."""
    depth_every: Annotated[int, Field(ge=1, le=16)] = 1
    """Only each n-th row and column of depth, from the middle of the first n."""
    labels: bool = False
    """STATIC, MOVER, SKY, uint8."""
    observed: bool = False
    """Cells of the last frame that the memory showed, float32."""
    readout: bool = False
    """Picture of what the memory showed of the last frame."""
    latents: bool = False
    """Newest latents of the world, float32."""
    every_frame: bool = False
    """Depth and labels of all frames, for models with a latent for every s-th only."""
    record: bool = False
    """What a walk has changed, uint8: `step_log.repeat_step` makes the world after it from the one before."""


class OfWorld(Request):
    """A request to one world."""

    world: Name
    moment: int | None = None
    """Moment of the world that is meant; its newest without."""


class Showing(OfWorld):
    """A request to one world that is answered with pictures."""

    want: Wanted = Wanted()
    hold: bool = False
    """Hold the moment that is reached until it is released, so that later requests can refer to it."""


class Open(Request):
    """Open a world.

    From a seed; from the test room of a number, which then shows its true views as well; from the array `image` uint8
    [H, W, 3], with the arrays `depth` float32 [H, W] and `labels` uint8 [H, W] where they are known; from the array
    `photo` uint8, the bytes of a picture's file; from a world that was saved here; or from the array `world` uint8, the
    bytes of a cache that is a zip.
    """

    name: Title | None = None
    """What to call it."""
    room: int | None = Field(None, ge=0, lt=2**31)
    """Number of a test room. With a saved world: the room that it was walked in."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    rng: dict[str, Any] | None = None
    """State of a NumPy bit generator, in the place of a seed; the answer has the state after it."""
    pose: Pose | None = None
    """Camera of the image: T_world_cam."""
    K: Lens | None = None
    camera_height: float | None = None
    """Metres of it above a level floor, to which estimated depth is fitted."""
    cache: str | None = Field(None, max_length=100)
    """A world that `save` has written, by its name."""
    prompt: str | None = Field(None, max_length=10_000)
    negative_prompt: str | None = Field(None, max_length=10_000)
    guidance_scale: float | None = None
    hold: bool = False
    want: Wanted = Wanted()


class Step(Showing):
    """Walk on by one chunk, as one step of `Mirage/World-v0` with its default control does."""

    action: Annotated[list[float], Field(min_length=6, max_length=6)]


class Walk(Showing):
    """Walk on by one chunk along given cameras: T_world_cam of every new frame."""

    poses: Poses
    release: list[int] = Field([], max_length=100_000)
    """Moments of the world that are held no longer, as `release` says it."""


class WalkMany(Request):
    """Walk on in several worlds; the answers come together."""

    walks: Annotated[list[Walk], Field(min_length=1, max_length=1024)]


class Observe(Showing):
    """Write true views: the array `images` uint8 [F, H, W, 3], and `depth` float32 [F, H, W] where it is known."""

    poses: Poses
    K: Lens | None = None


class Look(Showing):
    """Show the last frame, or the world from another camera without walking on."""

    pose: Pose | None = None


class Fork(OfWorld):
    """Begin a world of its own at a moment of another."""

    name: Title | None = None
    """What to call it; a name like that of the other world without."""


class Rename(OfWorld):
    """Call a world something else."""

    name: Title


class Preview(OfWorld):
    """Wait for the frames of a world's next chunk, before it is remembered; the answer has none if none comes."""

    chunk: int = Field(ge=0)
    """Number of the chunk: one more than that of the world where it begins."""


class Tokens(OfWorld):
    """Give the memory as patches of surface, and the cameras of the path (docs/viewer.md)."""


class TrueViews(OfWorld):
    """Show what the room that a world was opened in really looks like from cameras: the array `frames`."""

    poses: Annotated[list[Pose], Field(min_length=1, max_length=64)]
    frame: int = Field(0, ge=0, lt=2**31)
    """Number of the first since the world began."""


class Preset(OfWorld):
    """Give the poses of a named walk from where a world is (`mirage walk --path`), over whole chunks."""

    path: str
    chunks: int = Field(4, ge=1, le=32)


Part = Literal["encode", "encode_chunk", "encode_video", "decode", "decode_chunk", "refine", "estimate", "segment"]


class Network(Request):
    """Run a network of the model on arrays, named as in `interfaces.py`: for programs that hold their own worlds."""

    part: Part
    poses: Poses | None = None
    K: Lens | None = None


class Film(Request):
    """Make a video of pictures: the array `frames` uint8 [F, H, W, 3]; the answer has the array `file`."""

    to: Literal["mp4", "gif"]
    fps: float = Field(gt=0.0, le=60.0)


class Undo(Showing):
    """Go back by some chunks; what was walked since is forgotten."""

    chunks: int = Field(1, ge=1, le=1000)


class Snapshot(OfWorld):
    """Keep a moment, also over a restart of the server; the answer names it."""


class Restore(Showing):
    """Go back, or on, to a moment that is kept."""


class Release(OfWorld):
    """Keep moments no longer."""

    moments: list[int] = Field(max_length=100_000)


class Save(OfWorld):
    """Write the world to a cache in the server's folder of saved worlds."""

    name: str = Field(max_length=100)
    """A plain name, no path; `.zarr` is added where it has no ending."""
    overwrite: bool = False


class Export(OfWorld):
    """Give the world as a file: the array `file`, uint8."""

    to: Literal["ply", "pcd", "splat", "zip"]


class Close(Request):
    """End a world; its moments go with it."""

    world: Name


class Empty(Request):
    """Nothing to say."""


VERBS: dict[str, type[Request]] = {
    "describe": Empty,
    "list": Empty,
    "open": Open,
    "step": Step,
    "walk": Walk,
    "walk_many": WalkMany,
    "observe": Observe,
    "look": Look,
    "fork": Fork,
    "undo": Undo,
    "snapshot": Snapshot,
    "restore": Restore,
    "release": Release,
    "save": Save,
    "export": Export,
    "close": Close,
    "rename": Rename,
    "preview": Preview,
    "tokens": Tokens,
    "true_views": TrueViews,
    "preset": Preset,
    "film": Film,
    "network": Network,
}


RequestT = TypeVar("RequestT", bound=BaseModel)


def checked(model: type[RequestT], body: Mapping[str, Any]) -> RequestT:
    """A request of that class.

    Raises:
        ServingError: it is not as its class says.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)[:3]]
        raise ServingError(f"the request is not right: {'; '.join(found)}") from error


def checked_request(verb: str, body: Mapping[str, Any]) -> Request:
    """The request of a verb.

    Raises:
        ServingError: there is no such verb, or its request is not as its class says.
    """
    model = VERBS.get(verb)
    if model is None:
        raise ServingError(f"there is no verb {verb!r}; there are {', '.join(VERBS)}")
    return checked(model, body)


class Answering(Protocol):
    """Protocol of a service: carries requests out."""

    metrics: Metrics

    async def start(self) -> None:
        """Begin to take requests."""

    async def stop(self) -> None:
        """End."""

    async def call(self, verb: str, body: Mapping[str, Any], arrays: Arrays, owner: str) -> bytes:
        """Carry out a request."""
