"""Settings of the geometry networks: depth, movers and sky (`geometry` in `mirage.json`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from mirage_env.errors import InvalidOptionError

DEFAULT_DEPTH = "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
"""The smallest metric depth model under a free licence (Apache-2.0); `docs/geometry.md` lists the others."""
DEPTH_KINDS = ("auto", "transformers", "depth_anything_3", "map_anything")


@dataclass(frozen=True)
class DepthConfig:
    """A depth model and how its result becomes metres (`models/geometry/loader.py`).

    Raises:
        InvalidOptionError: no model, an unknown kind, or a number out of range.
    """

    model: str = DEFAULT_DEPTH
    """Hub id or folder."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: the newest."""
    kind: Literal["auto", "transformers", "depth_anything_3", "map_anything"] = "auto"
    """Which library runs it; `auto` reads it from the model's `config.json`."""
    lens_correction: bool = True
    """Scale metric depth by the camera's focal length over the one that the model was trained for, if it has one."""
    canonical_focal: float = 0.0
    """That focal length, pixels at the size the network sees; 0: the model's own (`docs/geometry.md`)."""
    input_size: int = 0
    """Height and width, pixels, that images are brought to or near to for the network, in the place of those that the
    model was published with; 0: those. Depth Anything 3 and MapAnything: the longer side."""
    start_depth: float = 3.0
    """Relative models: median depth that is assumed, metres, where the memory shows nothing."""
    min_cells: int = 32
    """Relative models: fewer cells that the memory shows do not fix the scale of a view."""
    start_model: str = DEFAULT_DEPTH
    """Prompted models: metric model that opens a world, and fills the prompt where the memory shows nothing."""
    skip_sky: bool = True
    """No depth (inf) where there is sky, by saturation, colour and place (`geometry/sky.py`), so the filters drop it.
    For models of the transformers library only; the others know the sky themselves."""
    min_confidence: float = 0.0
    """Models that give a confidence: pixels below it have no depth (inf), so the filters drop them. In the model's
    own units."""

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidOptionError("depth.model is empty; give a hub id or a folder")
        if self.kind not in DEPTH_KINDS:
            raise InvalidOptionError(f"depth.kind is {self.kind!r}; choose one of {DEPTH_KINDS}")
        _at_least(0, "depth", canonical_focal=self.canonical_focal, input_size=self.input_size)
        _at_least(0.0, "depth", min_confidence=self.min_confidence)
        _at_least(3, "depth", min_cells=self.min_cells)
        if not 0.0 < self.start_depth < math.inf:
            raise InvalidOptionError(f"depth.start_depth is {self.start_depth}; it must be positive metres")


@dataclass(frozen=True)
class SegmentationConfig:
    """Settings of segmentation: nouns of movers, the models, their scores (`models/geometry/sam3_segmentation.py`).

    Raises:
        InvalidOptionError: a number out of range, an empty noun, or a namer without a segmentation model.
    """

    model: str = ""
    """Hub id or folder of a SAM 3 checkpoint; empty: every pixel counts as static, and only depth keeps sky out."""
    revision: str = ""
    vocabulary: tuple[str, ...] = ("person", "animal", "vehicle")
    """Nouns of what moves or may move."""
    namer: str = ""
    """Hub id or folder of a Qwen3-VL checkpoint that names further movers, once per chunk; empty: none is asked."""
    namer_revision: str = ""
    max_nouns: int = 3
    """Most nouns taken from one answer."""
    namer_frames: int = 3
    """Frames of the chunk that are shown to the namer, spread evenly."""
    namer_pixels: int = 262144
    """Most pixels of each of them; larger frames are shrunk."""
    namer_tokens: int = 64
    """Most tokens of an answer."""
    sky: str = "sky"
    """Noun of the sky; empty: sky is not looked for."""
    tracking: bool = False
    """Follow the objects through the chunk with SAM 3's video model; else every frame is segmented on its own."""
    score: float = 0.5
    """Objects count from this probability on."""
    mask: float = 0.5
    """Pixels belong to an object from this probability on."""

    def __post_init__(self) -> None:
        if self.namer and not self.model:
            raise InvalidOptionError("segmentation.namer is given but no segmentation.model that finds what it names")
        if not all(noun.strip() for noun in self.vocabulary):
            raise InvalidOptionError(f"segmentation.vocabulary is {self.vocabulary}; every noun needs a text")
        _at_least(1, "segmentation", max_nouns=self.max_nouns, namer_frames=self.namer_frames)
        _at_least(1, "segmentation", namer_pixels=self.namer_pixels, namer_tokens=self.namer_tokens)
        for name, value in (("score", self.score), ("mask", self.mask)):
            if not 0.0 < value < 1.0:
                raise InvalidOptionError(f"segmentation.{name} is {value}; it must lie between 0 and 1")


@dataclass(frozen=True)
class GeometryConfig:
    """`geometry` in `mirage.json`; networks that a model folder has in `depth/` or `segmentation/` come before it."""

    depth: DepthConfig = field(default_factory=DepthConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)


def _at_least(least: float, where: str, **options: float) -> None:
    for name, value in options.items():
        if not least <= value < math.inf:
            raise InvalidOptionError(f"{where}.{name} is {value}; it must be at least {least:g}, and finite")
