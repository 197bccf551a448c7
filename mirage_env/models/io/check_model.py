"""Check of a model before it is loaded, from settings and headers alone: parts, sizes, and missing weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanTransformer3DModel

from mirage_env.config.geometry import DepthConfig, SegmentationConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import MirageError
from mirage_env.models.io.hub import PIPELINE, check_layout
from mirage_env.models.io.published_checkpoints import lora_from_published
from mirage_env.models.io.safetensors_headers import Place, place_of
from mirage_env.models.io.state_dicts import TEXT_WEIGHTS, WEIGHTS, empty, empty_module, misfits, read_json
from mirage_env.models.offload import decoding_bytes, step_bytes
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.refiner import ConvRefiner
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.wan.lora import halves
from mirage_env.models.wan.pipeline_loader import EXACT
from mirage_env.models.wan.pipeline_parts import LORA_WEIGHTS, Sources, check_kind_of, config_of
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.transformer import ControlledTransformer

SMALL = {
    "codec": ConvCodec,
    "depth": DepthUNet,
    "segmentation": SegmentationUNet,
    "refiner": ConvRefiner,
    "transformer": WanTransformer3DModel,
    "control": ControlBranch,
}
GROUPS_THERE = 4
"""Blocks on the device at once with `offload="group"`: two that compute and two that come."""
OPTIONAL = ("refiner", "control")
"""Parts that a small model need not have."""
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """One part of a model, as it would be loaded."""

    name: str
    network: str
    """Class that runs it."""
    place: str
    parameters: int = 0
    file_bytes: int = 0
    run_bytes: int = 0
    """Weights at the chosen type."""
    problems: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Parts, settings and problems of a model."""

    model: str
    parts: tuple[Part, ...]
    problems: tuple[str, ...]
    """Problems of the model as a whole."""
    settings: dict[str, Any]
    """Sizes and sampler that follow from the parts; empty if they cannot be read."""
    device_bytes: dict[str, int]
    """About how much device memory a walk needs, by `offload`; estimates, not measured. Empty if something is wrong."""

    @property
    def ok(self) -> bool:
        """True if the model could be loaded."""
        return not self.problems and not any(part.problems for part in self.parts)


@dataclass(frozen=True)
class Wanted:
    """Model to check, with the options that it would be loaded with."""

    model: str
    revision: str | None = None
    control: str | None = None
    lora: str | None = None
    depth: str | None = None
    segmentation: str | None = None
    dtype: torch.dtype = torch.bfloat16
    quantise: str | None = None


def check_model(wanted: Wanted) -> Report:
    """Look at settings and headers of all parts; what is wrong with a part is in the report.

    Raises:
        ModelNotFoundError: there is no such model.
        MissingPackageError: accelerate is not installed.
    """
    place = place_of(wanted.model, wanted.revision)
    if not (place.folder / PIPELINE).is_file():
        check_layout(place.folder, wanted.model)
        parts = [
            _module(wanted, place, name, cls)
            for name, cls in SMALL.items()
            if name not in OPTIONAL or (place.folder / name).is_dir()
        ]
        return Report(wanted.model, tuple(parts), (), _settings(WorldModelConfig.load(place.folder)), {})
    parts = [
        _module(wanted, place, "vae", AutoencoderKLWan),
        _module(wanted, place, "transformer", ControlledTransformer),
        _text_encoder(wanted, place),
    ]
    control = None
    if (given := _given(wanted.control, place, "control")) is not None:
        control = given[0].folder / given[1]
        parts.append(_module(wanted, *given, ControlBranch, "control"))
    if (update := _given(wanted.lora, place, "lora")) is not None:
        parts.append(_lora(wanted, *update, place))
    try:
        check_kind_of(place.folder)
        config = config_of(Sources(place.folder, control))
    except MirageError as error:
        return Report(wanted.model, tuple(parts), (str(error),), {}, {})
    parts += [_geometry(wanted, config, place, part) for part in ("depth", "segmentation")]
    report = Report(wanted.model, tuple(parts), (), _settings(config), {})
    return replace(report, device_bytes=device_bytes(config, place.folder, parts, wanted)) if report.ok else report


def _given(spec: str | None, model: Place, part: str) -> tuple[Place, str] | None:
    """Locate a part that is given, or that the model holds itself: the place, and the folder there."""
    if spec is None:
        return (model, part) if (model.folder / part).is_dir() else None
    place = place_of(spec)
    return place, part if (place.folder / part).is_dir() else ""


def _module(wanted: Wanted, place: Place, folder: str, cls: type[ModelMixin], name: str | None = None) -> Part:
    """A network in the diffusers layout against what its class expects."""

    def expected() -> Shapes:
        module = empty_module(cls, read_json(place.folder / folder / "config.json"), place.folder / folder)
        return {k: tuple(v.shape) for k, v in module.state_dict().items()}

    return _part(wanted, name or folder, cls.__name__, place, folder, WEIGHTS, expected)


def _text_encoder(wanted: Wanted, place: Place) -> Part:
    from transformers import UMT5Config, UMT5EncoderModel

    def expected() -> Shapes:
        config = UMT5Config(**read_json(place.folder / "text_encoder" / "config.json"))
        module = empty(lambda: UMT5EncoderModel(config))
        tied = set(module._tied_weights_keys)  # files hold one of several that are the same
        return {k: tuple(v.shape) for k, v in module.state_dict().items() if k not in tied}

    part = _part(wanted, "text_encoder", "UMT5EncoderModel", place, "text_encoder", TEXT_WEIGHTS, expected)
    if not (place.folder / "tokenizer" / "tokenizer_config.json").is_file():
        return replace(part, problems=(*part.problems, "there is no tokenizer"))
    return replace(part, note="read for new prompts only, and dropped after use")


def _part(
    wanted: Wanted,
    name: str,
    network: str,
    place: Place,
    folder: str,
    file: str,
    expected: Callable[[], Shapes] | None,
) -> Part:
    """A part against what its class expects, or with its sizes only."""
    where = f"{place}/{folder}" if folder and place.file is None else str(place)
    part = Part(name, network, where)
    try:
        headers = place.headers(folder, file)
        stored = {k: v for header in headers.values() for k, v in header.items()}
        own = expected() if expected is not None else {k: v.shape for k, v in stored.items()}
    except MirageError as error:
        return replace(part, problems=(str(error),))
    problems = misfits(own, {k: v.shape for k, v in stored.items()})
    return replace(
        part,
        parameters=sum(math.prod(shape) for shape in own.values()),
        file_bytes=sum(v.span[1] - v.span[0] for v in stored.values()),
        run_bytes=sum(weight_bytes(k, shape, name, wanted) for k, shape in own.items()),
        problems=tuple(problems),
    )


def weight_bytes(key: str, shape: Sequence[int], part: str, wanted: Wanted) -> int:
    """Bytes of a weight as it is loaded."""
    hinted = part in ("transformer", "control")
    if hinted and wanted.quantise and len(shape) == 2 and key.startswith("blocks."):
        return math.prod(shape) + wanted.dtype.itemsize * shape[0]  # and a scale for each row
    exact = hinted and any(name in EXACT for name in key.split("."))
    return math.prod(shape) * (4 if exact else wanted.dtype.itemsize)


def _lora(wanted: Wanted, place: Place, folder: str, model: Place) -> Part:
    """A low-rank update against the transformer's layers."""
    file = place if place.file else replace(place, file=f"{folder}/{LORA_WEIGHTS}" if folder else LORA_WEIGHTS)
    part = _part(wanted, "lora", "low-rank update of the transformer", file, "", LORA_WEIGHTS, None)
    if part.problems:
        return part
    (header,) = file.headers().values()
    try:
        config = read_json(model.folder / "transformer" / "config.json")
        transformer = empty_module(ControlledTransformer, config, model.folder / "transformer")
        weights = {key: torch.empty(stored.shape, device="meta") for key, stored in header.items()}
        weights = lora_from_published({k: v for k, v in weights.items() if not k.endswith(".alpha")})
        halves(_shapes(weights), _shapes(transformer.state_dict()))
    except MirageError as error:
        return replace(part, problems=(str(error),))
    return replace(part, note="added to the transformer's weights", run_bytes=0)


def _geometry(wanted: Wanted, config: WorldModelConfig, model: Place, name: str) -> Part:
    """Depth or segmentation model: where it comes from and how large it is; its library compares the weights."""
    depth = name == "depth"
    ours: type[ModelMixin] = DepthUNet if depth else SegmentationUNet
    said: DepthConfig | SegmentationConfig = config.geometry.depth if depth else config.geometry.segmentation
    spec = wanted.depth if depth else wanted.segmentation
    own = model.folder / name / "config.json"
    if spec is None and own.is_file():
        if read_json(own).get("_class_name") == ours.__name__:
            return _module(wanted, model, name, ours)
        return _part(wanted, name, _library_class(own), model, name, TEXT_WEIGHTS, None)
    if not (spec or said.model):
        return Part(name, "none", "nowhere", note="every pixel counts as static; only depth keeps the sky out")
    revision = None if spec else said.revision or None
    try:
        place = place_of(spec or said.model, revision)
    except MirageError as error:
        return Part(name, "unknown", str(spec or said.model), problems=(str(error),))
    return _part(wanted, name, _library_class(place.folder / "config.json"), place, "", TEXT_WEIGHTS, None)


def _library_class(config: Path) -> str:
    values = read_json(config) if config.is_file() else {}
    return str((values.get("architectures") or [values.get("model_type", "unknown")])[0])


def device_bytes(config: WorldModelConfig, folder: Path, parts: Sequence[Part], wanted: Wanted) -> dict[str, int]:
    """Device memory of a walk by `offload`: weights, and what the largest step has beside them."""
    size = {part.name: part.run_bytes for part in parts}
    net = read_json(folder / "transformer" / "config.json")
    generator = size["transformer"] + size.get("control", 0)
    vae = empty_module(AutoencoderKLWan, read_json(folder / "vae" / "config.json"), folder / "vae")
    step, decode = step_bytes(config, net, wanted.dtype), decoding_bytes(vae, config.image_size, wanted.dtype)
    geometry = size.get("depth", 0) + size.get("segmentation", 0)
    blocks = generator * GROUPS_THERE // max(int(net.get("num_layers", 1)), GROUPS_THERE)
    return {
        "none": generator + size["vae"] + geometry + max(step, decode, size["text_encoder"]),
        "model": geometry + max(generator + step, size["vae"] + decode, size["text_encoder"]),
        "group": size["vae"] + geometry + max(blocks + step, decode, size["text_encoder"]),
    }


def _settings(config: WorldModelConfig) -> dict[str, Any]:
    s = config.sampler
    return {
        "name": config.name,
        "image_size": list(config.image_size),
        "latents": [config.latent_channels, *config.latent_size],
        "frames_per_chunk": config.frames_per_chunk,
        "chunk_latents": config.chunk_latents,
        "preceding_latents": config.preceding_latents,
        "references": config.references,
        "frames_per_second": config.frames_per_second,
        "sampler": f"{s.solver}, {len(s.timesteps) or s.steps} steps, shift {s.shift:g}, {s.prediction}",
        "guidance": f"scale {s.guidance_scale:g}" if s.guidance_scale != 1.0 else "none",
        "memory": "placed as known tokens" if s.placement.enabled else "through the side branch or the source",
    }


def _shapes(weights: Mapping[str, torch.Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in weights.items()}
