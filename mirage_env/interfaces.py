"""The values that flow through a world, and the Protocols of the networks that make them.

Letters in shapes: T latents of a chunk, the first shared with the chunk before; K = T - 1 new ones; s image frames per
latent, F = s K new image frames; H x W image pixels, h x w latent cells, C latent channels, N points, B worlds. Images
are float in [-1, 1], RGB. Depth is z in metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, cat, device, empty, where
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError

if TYPE_CHECKING:
    from mirage_env.readout.zbuffer import Splat
    from mirage_env.world_model import WorldModel

STATIC, MOVER, SKY = 0, 1, 2
"""Labels of `StaticSegmenter`."""


@dataclass(frozen=True, eq=False)
class Readout:
    """Readout of a memory at T target cameras: the point that won each cell, and its geometry.

    Where `observed` is 0 every other field is 0. Memory and world live on the CPU; networks bring their inputs to their
    own device and the results back.
    """

    latent: Tensor  # [T, C, h, w] feature of the winner
    observed: Tensor  # [T, h, w] 1 where a point was found
    depth: Tensor  # [T, h, w] z of the winner in the target camera, metres
    offset: Tensor  # [T, 2, h, w] place of the winner in its cell, (x, y) in cells from the centre
    scale: Tensor  # [T, h, w] log of the winner's footprint (metres) over the footprint of the cell at its depth
    age: Tensor  # [T, h, w] chunks since the winner was written
    quarters: Tensor = field(default_factory=lambda: empty(0))
    """[T, 4 (C + 6), h, w] what the quarters of each cell show: `finer`, folded into the cells. Where true views were
    written at sub-cell shifts, a cell has more to tell than its one winner. No channels unless a model asks for them
    (`ReadoutConfig.quarters`)."""

    def __post_init__(self) -> None:
        if self.quarters.ndim != 4:
            none = self.latent.new_zeros(len(self.latent), 0, *self.latent.shape[-2:])
            object.__setattr__(self, "quarters", none)

    def __getitem__(self, index: int | slice) -> Self:
        """The readout of some of the cameras (time stays the first axis)."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def overlaid(self, other: Readout, mask: Tensor) -> Self:
        """This readout, and another of the same cameras in the cells of a mask [T, h, w].

        Where the other has no `quarters`, those of this one stay.
        """
        parts = {}
        for of in fields(self):
            own, its = getattr(self, of.name), getattr(other, of.name)
            its = its if its.shape[1] else own
            parts[of.name] = where(mask[:, None] if own.ndim == 4 else mask, its.to(own), own)
        return type(self)(**parts)

    @property
    def finer(self) -> Readout:
        """The readout of the same memory on a grid twice as fine, from `quarters`."""
        parts = pixel_shuffle(self.quarters, 2)
        C = parts.shape[1] - 6
        return Readout(
            parts[:, :C], parts[:, C], parts[:, C + 3], parts[:, C + 1 : C + 3], *parts[:, C + 4 :].unbind(1)
        )

    def with_finer(self, finer: Readout) -> Self:
        """This readout with the `quarters` of one on a grid twice as fine."""
        maps = [finer.latent, finer.observed[:, None], finer.offset]
        maps += [x[:, None] for x in (finer.depth, finer.scale, finer.age)]
        return replace(self, quarters=pixel_unshuffle(cat(maps, 1), 2))

    def surface(self, far: float) -> Tensor:
        """Depth [T, h, w] of surfaces nearer than `far`, metres; 0 where there is none, as in the sky, or unknown."""
        return self.depth * (self.depth < far)

    def to(self, device: device) -> Self:
        """Move the readout to another device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, eq=False)
class KnownObject:
    """A thing with a name, as its world knows it."""

    name: str
    position: NDArray[np.float64]  # [3] metres, in the world
    radius: float
    """Metres of the ball around it, as far as it was seen."""
    seen: bool = True
    """Whether the start view shows it."""


KnownObjects = Callable[[], tuple[KnownObject, ...]]
"""Things around a camera, found when they are asked for."""


@dataclass(frozen=True, eq=False)
class StartView:
    """A view to open a world with; the pose of its camera fixes the world frame."""

    image: NDArray[np.uint8]  # [H, W, 3]
    camera: Camera
    depth: NDArray[np.float32] | None = None  # [H, W] metres, inf where there is no surface; estimated if not given
    prompt: str = ""
    labels: NDArray[np.uint8] | None = None  # [H, W] STATIC, MOVER, SKY; segmented if not given
    others: tuple[StartView, ...] = ()
    """Further views of the same place, in the same world frame, that the memory is given before the first step."""
    objects: KnownObjects | None = None
    camera_height: float | None = None
    """Metres above a level floor, to which estimated depth is then fitted (`memory/floor.py`); None: not known."""


StartViews = Callable[[np.random.Generator], StartView]
"""Draws a start view: what an environment calls when `reset` is given no image."""

Truth = Callable[[Camera, int], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""True image [H, W, 3] at a camera and frame number, and where [H, W] it may be compared (nothing moves there)."""


@dataclass(frozen=True)
class KnownWorld:
    """A start view in a world whose truth is known."""

    view: StartView
    truth: Truth
    is_free: Callable[[Camera], bool]
    """Whether a camera keeps clear of walls and things."""


OpenRoom = Callable[["WorldModel", int], KnownWorld]
"""Opens the test room of a number at the model's image size; commands hand it in, the core knows no rooms."""


class Memory(Protocol):
    """A persistent world: written from views, read at any camera. Immutable; `write` returns a new one."""

    def write(
        self,
        latents: Tensor,  # [T, C, h, w] clean latents
        images: Tensor,  # [T, 3, H, W] the same views as images
        depth: Tensor,  # [T, H, W]
        keep: Tensor,  # [T, h, w] bool, cells that may be written
        cameras: Sequence[Camera],
        born: int,
        splat: Splat | None = None,
        shifts: int = 0,
    ) -> Memory:
        """The memory with what is new in the views, or, with `shifts`, with all that true views show.

        Args:
            latents, images, depth, keep, cameras, born: the views; see above.
            splat: what this memory shows of them, if it is known already.
            shifts: true views come at so many sub-cell shifts each, one after the other, the unshifted one first
                (`memory/true_views.py`); 0: the views are imagined.
        """
        ...

    def splat(self, cameras: Sequence[Camera]) -> Splat:
        """The winner of every cell at V cameras, to be handed to `read` and `write`."""
        ...

    def read(self, cameras: Sequence[Camera], now: int, splat: Splat | None = None) -> Readout:
        """Read the memory at T cameras, in chunk `now`."""
        ...

    @property
    def frames(self) -> int:
        """Views written so far."""
        ...

    @property
    def points(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Reference:
    """A view from earlier in a walk that later chunks may look at."""

    latent: Tensor  # [C, h, w] still latent
    camera: Camera
    frame: int = -1
    """Number of the frame since the world began, as the memory counts them (0: the start view); -1: not known."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of one world, in the place of the model's own (`SamplerConfig`); None: the model's.

    Raises:
        InvalidOptionError: a scale that is negative or not finite.
    """

    scale: float | None = None
    """1: off."""
    negative_prompt: str | None = None
    """Text to be led away from."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0.0 <= self.scale < math.inf:
            raise InvalidOptionError(f"guidance_scale is {self.scale}; it must be at least 0, and finite (1: off)")


class LatentCodec(Protocol):
    """Images to latents of unit scale and back: stills, one latent per image, and video, one latent per s frames."""

    def encode(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, C, h, w]
        """Each image for itself."""
        ...

    def decode(self, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [F, 3, H, W]
        """Each latent for itself."""
        ...

    def encode_chunk(
        self,
        frames: Tensor,  # [s K, 3, H, W]
        first: Tensor,  # [C, h, w] still latent of the frame before them
    ) -> Tensor:  # [K, C, h, w]
        """Frames that follow one another."""
        ...

    def encode_video(self, frames: Tensor) -> Tensor:  # [1 + s K, 3, H, W] -> [1 + K, C, h, w]
        """A still and the frames that follow it."""
        ...

    def decode_chunk(
        self,
        latents: Tensor,  # [K, C, h, w]
        first: Tensor,  # [C, h, w] still latent of the frame before them
    ) -> Tensor:  # [s K, 3, H, W]
        """Frames that follow one another."""
        ...


class DepthEstimator(Protocol):
    """Metric depth of images; what the memory already knows keeps its scale consistent. Called once per chunk."""

    def estimate(
        self,
        images: Tensor,  # [F, 3, H, W]
        cameras: Sequence[Camera],
        known: Tensor | None = None,  # [F, h, w] z-depth the memory shows, 0 where it shows nothing
    ) -> Tensor:  # [F, H, W] metres, positive
        ...


class StaticSegmenter(Protocol):
    """Labels every pixel STATIC, MOVER or SKY. Called once per chunk."""

    def segment(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, H, W] int64
        ...


class ReadoutRefiner(Protocol):
    """Moves read-out latents to where the winner's geometry says they belong."""

    def refine(self, readout: Readout) -> Tensor:  # [T, C, h, w], 0 where nothing was observed
        ...


class ChunkGenerator(Protocol):
    """Generates the next chunk of latents for B worlds at once."""

    def generate(
        self,
        known: Tensor,  # [B, T, C, h, w] refined readout; the first `clean` are clean, shared with the chunk before
        readout: Sequence[Readout],  # B readouts of T cameras
        rays: Tensor,  # [B, T, 6, h, w] camera rays in the frame of the chunk's first camera
        preceding: Sequence[Tensor],  # per world [P, C, h, w] clean latents before the chunk, newest last
        generators: Sequence[Generator],  # one per world: its noise depends on nothing else
        references: Sequence[Tensor] = (),  # per world [R, C, h, w], oldest first; none at all if empty
        prompts: Sequence[str] = (),  # per world; all empty if empty
        guidance: Sequence[Guidance] = (),  # per world; the model's own if empty
        preceding_readout: Sequence[Tensor] = (),  # per world [P, C, h, w] what the memory showed at `preceding`
        chunks: Sequence[int] = (),  # per world: chunks before this one, 0 for the first; later ones if empty
        clean: int = 1,
        cameras: Sequence[Sequence[Camera]] = (),  # per world: `clean` of the front, then one per new image frame
    ) -> Tensor:  # [B, T, C, h, w]
        """Draw the latents of the chunks; the first `clean` of each are those that were given."""
        ...
