"""The depth model and the segmentation model of a world, by hub id, folder or configuration.

Both functions return something that is ready for `WorldModel`: it takes float32 images on any device, brings them to
its own device and type, and gives float32 depth or int64 labels back where the images were. Images must not be rounded
on the way to it, as `Placed` does with a type below float32.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mirage_env.config.geometry import DepthConfig, SegmentationConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import DepthEstimator, StaticSegmenter
from mirage_env.models.geometry.image_preprocessing import IMAGENET_MEAN, IMAGENET_STD, ImageRule
from mirage_env.models.io.state_dicts import read_json
from mirage_env.models.io.transformers_checkpoints import find_checkpoint, load_pretrained, optional_json
from mirage_env.models.offload import native_dtype
from mirage_env.models.small.segmentation_unet import AllStatic

if TYPE_CHECKING:
    from mirage_env.models.geometry.pretrained_depth import DepthNetwork
    from mirage_env.models.geometry.sky import Ranged

# transformers is imported where it is used: with its models it takes seconds.
RULES = {
    "depth_anything": ImageRule((518, 518), 14, True, IMAGENET_MEAN, IMAGENET_STD, "bicubic"),
    "prompt_depth_anything": ImageRule((756, 756), 14, True, IMAGENET_MEAN, IMAGENET_STD, "bicubic"),
    "depth_pro": ImageRule((1536, 1536), antialias=False),
    "zoedepth": ImageRule((384, 512), 32, True, antialias=False, align_corners=True, pad=True),
}
"""Image preprocessing by `model_type`, where the checkpoint does not say."""
HYPERSIM_FOCAL, VIRTUAL_KITTI_FOCAL, NYU_FOCAL = 598.1, 1001.5, 415.1
"""Focal lengths of data sets in pixels of the network's input: 886.8 px in images of 768 rows and 725.0 px of 375, both
brought to 518 rows; 518.9 px of 480, brought to 384."""


def load_depth(
    spec: str | Path | DepthConfig | None,
    config: WorldModelConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> DepthEstimator:
    """Load a pretrained depth model.

    Args:
        spec: hub id or folder of a model, in which case the other settings are those of `config.geometry.depth`; a
            whole configuration; or None for `config.geometry.depth` as it is.
        config: of the world model; `near` and `far` bound the depth.
        device: where the network runs.
        dtype: type of weights and activations; bfloat16 where the processor computes it natively, else float32.

    Raises:
        ModelNotFoundError: no such folder, no such hub id, or the hub cannot be reached.
        InvalidOptionError: the model is of a kind that is not known here, or its configuration is damaged.
        WeightsError: missing, unexpected or misshapen weights, or a truncated file.
        MissingPackageError: the model needs a package that is not installed.
    """
    if not isinstance(spec, DepthConfig):
        depth = config.geometry.depth
        spec = depth if spec is None else replace(depth, model=str(spec), revision="", kind="auto")
    device = torch.device(device)
    dtype = dtype or native_dtype(device)
    folder = find_checkpoint(spec.model, spec.revision)
    spec = replace(spec, model=str(folder), revision="")
    kind = _depth_kind(spec)
    if kind == "transformers":
        return _transformers_depth(spec, config, device, dtype)
    from mirage_env.models.geometry.packaged_depth import load_depth_anything_3, load_map_anything

    load = load_depth_anything_3 if kind == "depth_anything_3" else load_map_anything
    return load(spec, config, device, dtype)


def load_segmentation(
    spec: str | Path | SegmentationConfig | None,
    config: WorldModelConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> StaticSegmenter:
    """Load the segmenter of movers and sky.

    Args:
        spec: hub id or folder of a SAM 3 checkpoint, in which case the other settings are those of
            `config.geometry.segmentation`; a whole configuration; or None for `config.geometry.segmentation` as it is.
            Where that names no model, every pixel is STATIC, and the depth model keeps the sky out of the memory
            (`geometry.depth.skip_sky`).
        config: of the world model.
        device: where the networks run.
        dtype: type of weights and activations; bfloat16 where the processor computes it natively, else float32.

    Raises:
        ModelNotFoundError, InvalidOptionError, WeightsError: as `load_depth`.
    """
    if not isinstance(spec, SegmentationConfig):
        segmentation = config.geometry.segmentation
        spec = segmentation if spec is None else replace(segmentation, model=str(spec), revision="")
    device = torch.device(device)
    dtype = dtype or native_dtype(device)
    if not spec.model:
        return AllStatic()
    from mirage_env.models.geometry.sam3_segmentation import load_vocabulary_segmenter

    return load_vocabulary_segmenter(spec, device, dtype)


def _depth_kind(spec: DepthConfig) -> str:
    """Choose the library that runs a model.

    Raises:
        ModelNotFoundError: its folder has no `config.json`.
        InvalidOptionError: that names none that is known here.
    """
    if spec.kind != "auto":
        return spec.kind
    values = read_json(Path(spec.model) / "config.json")
    if values.get("model_type") in RULES:
        return "transformers"
    if str(values.get("model_name", "")).startswith("da3"):
        return "depth_anything_3"
    if "info_sharing_config" in values and "geometric_input_config" in values:
        return "map_anything"
    raise InvalidOptionError(
        f"{spec.model} is no depth model that is known here: config.json says model_type "
        f"{values.get('model_type')!r}; known are {sorted(RULES)}, Depth Anything 3 and MapAnything"
    )


def _transformers_depth(
    spec: DepthConfig, config: WorldModelConfig, device: torch.device, dtype: torch.dtype
) -> DepthEstimator:
    from transformers import AutoModelForDepthEstimation

    from mirage_env.models.geometry import pretrained_depth as kinds
    from mirage_env.models.geometry.sky import SkylessDepth

    folder = Path(spec.model)
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in RULES:
        raise InvalidOptionError(f"{spec.model} has model_type {model_type!r}; known ones are {sorted(RULES)}")
    rule = RULES[model_type].configured(optional_json(folder / "preprocessor_config.json"))
    if spec.input_size:
        rule = replace(rule, size=(spec.input_size, spec.input_size))
    module = load_pretrained(AutoModelForDepthEstimation, folder, device, torch.float32)
    network = kinds.DepthNetwork.of(module, dtype, rule, config.near, config.far)
    estimator = _estimator(network, model_type, spec, config, device, dtype)
    return SkylessDepth(estimator) if spec.skip_sky else estimator


def _estimator(
    network: DepthNetwork,
    model_type: str,
    spec: DepthConfig,
    config: WorldModelConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> Ranged:
    from mirage_env.models.geometry import pretrained_depth as kinds

    module = network.module
    if model_type == "depth_pro":
        return kinds.CanonicalInverseDepth(network)
    if model_type == "prompt_depth_anything":
        start = replace(spec, model=spec.start_model, revision="", kind="auto", skip_sky=False)
        first = load_depth(start, config, device, dtype)
        return kinds.PromptedDepth(network, first, spec.min_cells)
    if model_type == "depth_anything" and module.config.depth_estimation_type == "relative":
        return kinds.RelativeDepth(network, spec.start_depth, spec.min_cells)
    focal = (spec.canonical_focal or published_focal(module.config)) if spec.lens_correction else 0.0
    return kinds.MetricDepth(network, focal, largest_depth(module.config))


def largest_depth(config: Any) -> float:
    """Largest depth that a metric model of the transformers library gives, metres; inf if it has no end."""
    if config.model_type == "depth_anything":
        return float(config.max_depth)
    ends = [head.get("max_depth") for head in getattr(config, "bin_configurations", ())]
    return max((float(end) for end in ends if end), default=math.inf)


def published_focal(config: Any) -> float:
    """Focal length that a metric model of the transformers library was trained for, by its configuration; 0: unknown.

    Depth Anything's indoor models (depth to 20 m) were trained on Hypersim, the outdoor ones (80 m) on Virtual KITTI,
    ZoeDepth's with one head for "nyu" on NYU Depth. Each data set has one lens.
    """
    if config.model_type == "depth_anything":
        return {20: HYPERSIM_FOCAL, 80: VIRTUAL_KITTI_FOCAL}.get(config.max_depth, 0.0)
    heads = [head.get("name") for head in getattr(config, "bin_configurations", ())]
    return NYU_FOCAL if heads == ["nyu"] else 0.0
