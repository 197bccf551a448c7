"""`mirage.json`: what a world model needs to know beside its weights."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mirage_env.config.chunk_lengths import ChunkLengths
from mirage_env.config.geometry import GeometryConfig
from mirage_env.config.parsing import at_least, from_dict, image_size_of, one_of
from mirage_env.config.sampler import SamplerConfig
from mirage_env.errors import InvalidOptionError, ModelNotFoundError
from mirage_env.files import read_json

SHIPPED = Path(__file__).parents[1] / "weights"
"""Models that come with the package."""
FORMAT_VERSION = 1
MOST_MOVERS = 64
"""That a world may keep (`MemoryConfig.movers`)."""


@dataclass(frozen=True)
class ReadoutConfig:
    """Settings of the readout (`zbuffer.py`); the paper's readout is `winner="nearest"` with `footprint=0`.

    Raises:
        InvalidOptionError: an unknown rule or a negative number.
    """

    winner: Literal["best_fit", "nearest"] = "best_fit"
    depth_tolerance: float = 0.10
    """Points within this share of a cell's nearest depth compete by fit, in either layer (`best_fit` only). The second
    layer shows where the first lies farther behind it than this share."""
    footprint: float = 1.2
    """Second layer: a point also covers this multiple of its own footprint; 0 reads the one-cell layer only."""
    footprint_cap: float = 4.0
    """Largest footprint of the second layer, cells."""
    quarters: bool = False
    """The refiner is told what each quarter of a cell shows, too (`Readout.quarters`)."""

    def __post_init__(self) -> None:
        one_of(("best_fit", "nearest"), winner=self.winner)
        at_least(0.0, depth_tolerance=self.depth_tolerance, footprint=self.footprint, footprint_cap=self.footprint_cap)


@dataclass(frozen=True)
class GateConfig:
    """Settings of the gate: cells are written that the memory does not show, shows at another depth, or much coarser.

    A cell is compared with the readout of the same cell at the view's own camera; its neighbours do not matter. What
    the views say about the tokens that are there already is weighed too (`evidence.py`).

    Everything after the start view is generated, so a cell that is written again is a copy of a copy. Rewriting for a
    better fit inside the cell (limit 0.35 on offset plus |log scale|, depth limit 5 %) was tried on six validation
    worlds: several times the points, and 1 to 2 dB less between a revisit and the first visit than limits near these.

    Raises:
        InvalidOptionError: a negative number.
    """

    depth_change: float = 0.2
    """A cell whose depth differs from the memory's by more than this share of its own depth is new."""
    coarser: float = 0.6
    """A cell is written again where log(footprint of the point shown / footprint of the cell) is above this."""
    close: float = 0.1
    """A true view is written whole, but for cells whose token lies within so many cells (plus |log scale|) of the
    place where the view would put its own."""
    max_confidence: int = 4
    """Views of one chunk that agree with a token add 1 to its confidence, up to this; the start view begins with it."""
    contradiction: int = 2
    """Views of one chunk that see through a token take this from its confidence; below zero it is removed. 0: never."""
    contradicting_views: int = 2
    """So many views of the chunk must see through the token, and none agree with it; of true views one that is alone
    is enough."""

    def __post_init__(self) -> None:
        at_least(0.0, depth_change=self.depth_change, coarser=self.coarser, close=self.close)
        at_least(0, contradiction=self.contradiction)
        at_least(1, contradicting_views=self.contradicting_views)
        if not 0 <= self.max_confidence <= 255:
            raise InvalidOptionError(f"max_confidence is {self.max_confidence}; it must lie between 0 and 255")


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of how the memory keeps its tokens.

    Raises:
        InvalidOptionError: an unknown feature type or a negative number.
    """

    features: Literal["int8", "float16"] = "int8"
    """8-bit features with a gain per token, or half precision at nearly twice the bytes."""
    shifts: int = 0
    """The start view is written whole, at shifts x shifts sub-cell shifts (`memory/true_views.py`), views that
    `observe` brings are written whole, and every view of an imagined chunk where it is new to the memory; 0: all pass
    the gate, imagined views one by one."""
    merge_tokens: int = 8192
    """Blocks of consecutive writes become one while it has at most this many tokens."""
    max_bytes: int = 0
    """Beyond this many bytes whole blocks are evicted, least confident first, then oldest; the start view and the
    newest block never. 0: no limit."""
    sky: float = 0.0
    """Sky is remembered as if it were a sphere of this radius around who saw it, metres, at least twice `far`; 0: it is
    not, as in the paper."""
    movers: int = 8
    """So many things that move keep their place, look and velocity while unseen (`memory/movers.py`), those that were
    seen last; 0: they are forgotten."""
    mirrored: bool = False
    """Where nothing was ever seen, the generator is shown the room around the start view, unless that is `drawn`, or
    that view, mirrored (`memory/mirrored.py`)."""
    drawn: bool = False
    """Frames show the very pixels of what cameras truly saw, moved (`memory/view_drawings.py`)."""

    def __post_init__(self) -> None:
        one_of(("int8", "float16"), features=self.features)
        at_least(0.0, sky=self.sky)
        at_least(0, shifts=self.shifts, merge_tokens=self.merge_tokens, max_bytes=self.max_bytes, movers=self.movers)
        if self.movers > MOST_MOVERS:
            raise InvalidOptionError(f"movers is {self.movers}; at most {MOST_MOVERS} are kept")


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of how the depth of a new chunk is scaled to the memory (`depth_scale.py`).

    Raises:
        InvalidOptionError: a number out of range.
    """

    enabled: bool = False
    min_cells: int = 32
    """Fewer cells that both see say nothing: the depth stays as it was estimated."""
    tolerance: float = 0.1
    """Cells agree whose depths differ by at most this share after scaling."""
    min_agreement: float = 0.5
    """If a smaller share of the cells agrees, the chunk is shown but not written."""
    max_scale: float = 2.0
    """A larger factor, or a smaller one than its inverse, counts as disagreement."""

    def __post_init__(self) -> None:
        at_least(1, min_cells=self.min_cells)
        at_least(0.0, tolerance=self.tolerance)
        if not 0.0 <= self.min_agreement <= 1.0 or not self.max_scale >= 1.0:
            raise InvalidOptionError(
                f"min_agreement is {self.min_agreement} and max_scale {self.max_scale}; they must lie in [0, 1] and be "
                "at least 1"
            )


@dataclass(frozen=True)
class FilterConfig:
    """Settings of the filters that keep cells out of the memory (paper, section on the update).

    Raises:
        InvalidOptionError: a negative number.
    """

    edge_jump: float = 0.08
    """Relative depth jump above which a pixel lies on an edge."""
    edge_share: float = 0.0
    """Share of edge pixels above which a cell is dropped; 1 keeps edge cells at their median depth."""
    dynamic_share: float = 0.15
    """Share of mover or sky pixels above which a cell is dropped."""
    unknown_share: float = 0.5
    """Share of pixels without a measured depth above which a cell is dropped; it is lifted from the others."""

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("edge_share", "dynamic_share", "unknown_share")}
        at_least(0.0, edge_jump=self.edge_jump, **shares)


@dataclass(frozen=True)
class WorldModelConfig(ChunkLengths):
    """Everything in `mirage.json`. Lengths in metres, angles in radians.

    Raises:
        InvalidOptionError: a value out of range, or a newer format.
    """

    name: str
    image_size: tuple[int, int]  # H, W
    latent_size: tuple[int, int]  # h, w
    latent_channels: int
    chunk_latents: int = 9
    """T: latents of a chunk, the first shared with the chunk before."""
    clean_latents: int = 1
    """So many at the front of a chunk show the last frames before it, as they were; a first chunk has its start view
    only. More than one overlap with the chunk before."""
    first_chunk_latents: int | None = None
    """T of a world's first chunk; None: as many new latents as in the others."""
    preceding_latents: int = 1
    """P: clean latents before the chunk that the network sees."""
    first_chunk_preceding: bool = True
    """The first chunk gets P copies of the start view; False: nothing precedes it, as some branches were trained."""
    preceding_readouts: bool = False
    """The branch also sees what the memory showed at the preceding latents when they were made."""
    temporal_stride: int = 1
    """s: image frames per latent. Latent j of a chunk goes with its image frame s j; Wan's codec has 4."""
    references: int = 0
    """Most latents from earlier in the walk, chosen by what they show, that the network sees beside the chunk."""
    best_reference_first: bool = False
    """Order of the references: by overlap with the chunk, or (False) in time."""
    frames_per_second: float = 8.0
    fov: float = math.radians(75.0)
    """Horizontal field of view that is assumed where a start image comes without intrinsics."""
    near: float = 0.1
    far: float = 50.0
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    trained_on: str = ""
    """World that the networks were trained on: rooms, an environment's id, recordings; empty where that is not said."""
    shares: str | None = None
    """Model that gives the parts this one does not hold: a folder beside it (../NAME), or a shipped model (NAME)."""
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.shares is not None and re.fullmatch(r"(\.\./)?[\w-][\w.-]*", self.shares) is None:
            raise InvalidOptionError(
                f"shares is {self.shares!r}; name a folder beside the model's, ../NAME, or a shipped one, NAME"
            )
        (H, W), (h, w) = self.image_size, self.latent_size
        if min(H, W, h, w) < 1 or H % h or W % w or H // h != W // w:
            raise InvalidOptionError(f"image_size {(H, W)} must be one whole multiple of latent_size {(h, w)}")
        if self.preceding_latents < 0:
            raise InvalidOptionError(f"preceding_latents is {self.preceding_latents}; it must be at least 0")
        self.check_lengths()
        if self.clean_latents > 1 and (self.preceding_latents or self.sampler.couple):
            raise InvalidOptionError(
                f"clean_latents is {self.clean_latents}; more than one goes with preceding_latents 0 and "
                "sampler.couple false only"
            )
        if not 0.0 < self.near < self.far:
            raise InvalidOptionError(f"near {self.near} and far {self.far} must satisfy 0 < near < far")
        if 0.0 < self.memory.sky < 2.0 * self.far:
            raise InvalidOptionError(f"memory.sky is {self.memory.sky}; give 0, or at least twice far ({self.far})")
        if not 0.0 < self.fov < math.pi:
            raise InvalidOptionError(f"fov is {self.fov}; it must lie between 0 and pi (radians)")
        if not 0.0 < self.frames_per_second < math.inf:
            raise InvalidOptionError(f"frames_per_second is {self.frames_per_second}; it must be positive")
        at_least(1, latent_channels=self.latent_channels, temporal_stride=self.temporal_stride)
        at_least(0, references=self.references)
        if self.version > FORMAT_VERSION:
            raise InvalidOptionError(f"mirage.json has version {self.version}; this release reads {FORMAT_VERSION}")

    def at(self, image_size: tuple[int, int]) -> WorldModelConfig:
        """Change the image size, with as many pixels per cell.

        Raises:
            InvalidOptionError: no whole number of cells.
        """
        image_size = image_size_of(image_size)
        if any(side % self.stride for side in image_size):
            raise InvalidOptionError(f"image_size is {image_size}; give multiples of {self.stride} pixels (a cell)")
        latent_size = (image_size[0] // self.stride, image_size[1] // self.stride)
        return dataclasses.replace(self, image_size=image_size, latent_size=latent_size)

    def with_chunk_frames(self, frames: int) -> WorldModelConfig:
        """Change the number of new frames per chunk, the first one's too.

        Raises:
            InvalidOptionError: not a whole number of latents, or fewer than are clean.
        """
        if frames < 1 or frames % self.temporal_stride:
            raise InvalidOptionError(f"chunk_frames is {frames}; give a multiple of {self.temporal_stride}, at least 1")
        latents = self.clean_latents + frames // self.temporal_stride
        return dataclasses.replace(self, chunk_latents=latents, first_chunk_latents=None)

    @property
    def stride(self) -> int:
        """Image pixels per latent cell."""
        return self.image_size[0] // self.latent_size[0]

    @property
    def key_frames(self) -> slice:
        """Slice of the new frames of a chunk that have a latent: every s-th."""
        return slice(self.temporal_stride - 1, None, self.temporal_stride)

    def save(self, folder: Path) -> None:
        """Write `mirage.json` into `folder`."""
        (folder / "mirage.json").write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def parts_folder(self, folder: Path) -> Path | None:
        """The model that gives the parts `folder` does not hold itself; None without `shares`.

        Raises:
            ModelNotFoundError: there is none.
        """
        if self.shares is None:
            return None
        shared = (folder if self.shares.startswith("../") else SHIPPED) / self.shares
        if shared.is_symlink() or not (shared / "mirage.json").is_file():
            raise ModelNotFoundError(f"{folder / 'mirage.json'} shares {self.shares!r}, where there is no model")
        return shared

    @staticmethod
    def load(folder: Path) -> WorldModelConfig:
        """Read `mirage.json` of a model folder.

        Raises:
            InvalidOptionError: no JSON, an unknown or missing key, or a value of the wrong type or out of range.
        """
        values = read_json(folder / "mirage.json", advice="copy the model again")
        return from_dict(WorldModelConfig, values, "mirage.json")
