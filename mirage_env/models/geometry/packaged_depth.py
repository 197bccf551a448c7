"""Depth models that live in packages of their own: Depth Anything 3 and MapAnything.

Both look at all views of a chunk together and take their poses and lenses, so that the views agree with each other.
Neither package is a dependency: the first pins versions that nothing else can live with, the second is on no index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mirage_env.camera import Camera
from mirage_env.config.geometry import DepthConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError, MissingPackageError, WeightsError
from mirage_env.models.geometry.image_preprocessing import IMAGENET_MEAN, IMAGENET_STD, ImageRule
from mirage_env.models.geometry.pretrained_depth import known_scale
from mirage_env.models.io.state_dicts import TEXT_WEIGHTS, WeightFiles, load_strictly, read_json

INSTALL_DEPTH_ANYTHING_3 = "pip install --no-deps depth-anything-3==0.1.1 && pip install einops omegaconf addict"
INSTALL_MAP_ANYTHING = "pip install 'mapanything @ git+https://github.com/facebookresearch/map-anything.git@v1.1'"
PATCH = 14
METRIC_FOCAL = 300.0
"""Depth Anything 3's metric model: metres = depth * focal length in its input's pixels / 300."""
SKY = 0.3
"""Its sky probability from which on a pixel is sky, as its own code has it."""
SHORTEST_BASELINE = 0.05
"""Metres between the outermost cameras below which their distances say nothing about scale."""


@dataclass(frozen=True, eq=False)
class PackagedDepth:
    """Shared part of both adapters: the network, its input size, and the bounds of its depth."""

    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    longest: int
    """Longer side of the network's input, pixels."""
    near: float
    far: float
    start_depth: float
    min_cells: int
    min_confidence: float

    def rule(self, images: Tensor) -> ImageRule:
        """Both sides scaled alike, to multiples of the patch."""
        height, width = images.shape[-2:]
        scale = self.longest / max(height, width)
        size = (round(height * scale), round(width * scale))
        return ImageRule(size, PATCH, mean=IMAGENET_MEAN, std=IMAGENET_STD, mode="bicubic")

    def poses(self, cameras: Sequence[Camera]) -> Tensor:  # [F, 4, 4] float32
        """Maps points of each camera into the frame of the first."""
        first = cameras[0].T_cam_world
        return torch.from_numpy(np.stack([first @ c.T_world_cam for c in cameras])).float().to(self.device)

    def intrinsics(self, cameras: Sequence[Camera], size: tuple[int, int]) -> Tensor:  # [F, 3, 3] float32
        """Intrinsics at the size of the network's input."""
        return torch.from_numpy(np.stack([c.K_at(*size) for c in cameras])).float().to(self.device)

    def autocast(self) -> torch.autocast:
        """Weights stay float32, as the packages have them; products are of the type asked for."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def finished(
        self,
        metres: Tensor,  # [F, H, W]
        images: Tensor,
        sky: Tensor | None,  # [F, H, W] bool
        confidence: Tensor | None,  # [F, H, W]
    ) -> Tensor:  # [F, H, W]
        """Depth within the limits, `far` where there is sky, inf where the model does not trust itself."""
        metres = metres.clamp(self.near, self.far)
        if sky is not None:
            metres = torch.where(sky, self.far, metres)
        if confidence is not None and self.min_confidence:
            metres = torch.where(confidence < self.min_confidence, torch.inf, metres)
        return metres.to(images.device)


@dataclass(frozen=True, eq=False)
class DepthAnything3(PackagedDepth):
    """Depth Anything 3: any-view (depth and confidence up to scale), monocular, metric, or nested (metric any-view)."""

    preset: str

    @torch.inference_mode()
    def estimate(
        self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None
    ) -> Tensor:  # [F, H, W] metres in [near, far], or inf
        """See `DepthEstimator.estimate`.

        Where the model does not know metres, the scale is that of what is known, else that of the distances between
        the cameras, else `start_depth` becomes the median.
        """
        rule, (height, width) = self.rule(images), images.shape[-2:]
        size = rule.network_size(height, width)
        inputs = rule.prepare(images, self.device, torch.float32)[None]
        T_first_cam, lenses = self.poses(cameras), self.intrinsics(cameras, size)
        given = () if "mono" in self.preset or "metric" in self.preset else _conditioning(T_first_cam, lenses)
        # The networks draw pixels to find the depth of the farthest ones.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.autocast():
            torch.manual_seed(0)
            try:
                found = self.module(inputs, *given)
            except AssertionError as error:
                if "non-sky" not in str(error):
                    raise
                # The nested network cannot do with nothing but sky.
                return torch.full((len(images), height, width), self.far, device=images.device)
        depth = rule.restore(found["depth"].reshape(len(images), *size), height, width)
        sky = _restored(rule, found.get("sky"), len(images), size, (height, width))
        confidence = _restored(rule, found.get("depth_conf"), len(images), size, (height, width))
        if self.preset.startswith("da3metric"):
            depth = depth * (lenses[:, :1, :1] / METRIC_FOCAL)
        elif not self.preset.startswith("da3nested"):
            depth = depth * self._scale(depth, known, T_first_cam, found.get("extrinsics"))
        return self.finished(depth, images, None if sky is None else sky >= SKY, confidence)

    def _scale(self, depth: Tensor, known: Tensor | None, T_first_cam: Tensor, extrinsics: Tensor | None) -> float:
        scale = known_scale(depth, known, self.min_cells)
        if scale is None and extrinsics is not None:
            T_cam_world = extrinsics.reshape(len(depth), -1, 4)[:, :3].float()
            centres = -(T_cam_world[:, :, :3].mT @ T_cam_world[:, :, 3:])[..., 0]
            apart, found = torch.pdist(T_first_cam[:, :3, 3]), torch.pdist(centres)
            if len(apart) and apart.max() >= SHORTEST_BASELINE and (found > 0.0).all():
                scale = float((apart / found).median())
        return self.start_depth / float(depth.median()) if scale is None else scale


@dataclass(frozen=True, eq=False)
class MapAnything(PackagedDepth):
    """MapAnything: metric depth and confidence of all views, given their lenses and poses."""

    @torch.inference_mode()
    def estimate(
        self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None
    ) -> Tensor:  # [F, H, W] metres in [near, far], or inf
        """See `DepthEstimator.estimate`; depth comes in metres and is left so."""
        rule, (height, width) = self.rule(images), images.shape[-2:]
        inputs = rule.prepare(images, self.device, torch.float32)
        lenses, poses = self.intrinsics(cameras, rule.network_size(height, width)), self.poses(cameras)
        views = [
            {
                "img": inputs[i : i + 1],
                "data_norm_type": ["dinov2"],
                "intrinsics": lenses[i : i + 1],
                "camera_poses": poses[i : i + 1],
                "is_metric_scale": torch.ones(1, dtype=torch.bool, device=self.device),
            }
            for i in range(len(images))
        ]
        amp = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self.dtype, "fp32")
        found = self.module.infer(views, use_amp=amp != "fp32", amp_dtype=amp, apply_mask=False)  # type: ignore[operator]
        depth = rule.restore(torch.cat([view["depth_z"][..., 0] for view in found]), height, width)
        confidence = rule.restore(torch.cat([view["conf"] for view in found]), height, width)
        # What it takes for ambiguous is mostly sky.
        clear = [view["non_ambiguous_mask"].float().reshape(1, *inputs.shape[-2:]) for view in found]
        return self.finished(depth, images, rule.restore(torch.cat(clear), height, width) < 0.5, confidence)


def load_depth_anything_3(
    spec: DepthConfig, config: WorldModelConfig, device: torch.device, dtype: torch.dtype
) -> DepthAnything3:
    """Depth Anything 3 from its package and a folder in the layout of its repositories (`spec.model`).

    Raises:
        MissingPackageError: `depth_anything_3` or what its networks import is not installed.
        ModelNotFoundError, InvalidOptionError, WeightsError: as `loader.load_depth`.
    """
    try:
        from depth_anything_3.cfg import create_object, load_config
        from depth_anything_3.registry import MODEL_REGISTRY
        from depth_anything_3.utils.logger import LOG_LEVELS, logger
    except ImportError as error:
        raise MissingPackageError(f"{error}; Depth Anything 3 needs: {INSTALL_DEPTH_ANYTHING_3}") from error
    if "DA3_LOG_LEVEL" not in os.environ:
        logger.level = LOG_LEVELS["WARN"]  # else every chunk prints a line where commands print their results
    folder = Path(spec.model)
    preset = read_json(folder / "config.json").get("model_name")
    if preset not in MODEL_REGISTRY:
        raise InvalidOptionError(
            f"config.json of {spec.model} names the model {preset!r}; depth_anything_3 has {sorted(MODEL_REGISTRY)}"
        )
    try:
        network = create_object(load_config(MODEL_REGISTRY[preset]))
    except ImportError as error:
        raise MissingPackageError(f"{error}; Depth Anything 3 needs: {INSTALL_DEPTH_ANYTHING_3}") from error
    # The package's wrapper holds the network as `model`.
    wrapper = nn.ModuleDict({"model": network})
    load_strictly(wrapper, dict(WeightFiles.of(folder, TEXT_WEIGHTS).tensors()), folder)
    return DepthAnything3(network.to(device).eval(), preset=str(preset), **_common(spec, config, device, dtype, 504))


def load_map_anything(
    spec: DepthConfig, config: WorldModelConfig, device: torch.device, dtype: torch.dtype
) -> MapAnything:
    """MapAnything from its package, which fetches its encoder's code with `torch.hub`, and a folder (`spec.model`).

    Raises:
        MissingPackageError: `mapanything` is not installed.
        ModelNotFoundError, WeightsError: as `loader.load_depth`.
    """
    try:
        from mapanything.models import MapAnything as Network
    except ImportError as error:
        raise MissingPackageError(f"{error}; MapAnything needs: {INSTALL_MAP_ANYTHING}") from error
    folder = Path(spec.model)
    try:
        network = Network.from_pretrained(folder, strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise WeightsError(f"weights of {spec.model} do not fit MapAnything: {error}") from error
    return MapAnything(network.to(device).eval(), **_common(spec, config, device, dtype, 518))


def _common(
    spec: DepthConfig, config: WorldModelConfig, device: torch.device, dtype: torch.dtype, longest: int
) -> dict[str, Any]:
    return {
        "device": device,
        "dtype": dtype,
        "longest": spec.input_size or longest,
        "near": config.near,
        "far": config.far,
        "start_depth": spec.start_depth,
        "min_cells": spec.min_cells,
        "min_confidence": spec.min_confidence,
    }


def _conditioning(T_first_cam: Tensor, lenses: Tensor) -> tuple[Tensor, Tensor]:  # [1, F, 4, 4], [1, F, 3, 3]
    """Poses as the any-view networks were trained with them: world to camera, median distance from the first one."""
    unit = T_first_cam[:, :3, 3].norm(dim=-1).median().clamp_min(0.1)
    T_first_cam = T_first_cam.clone()
    T_first_cam[:, :3, 3] /= unit
    return torch.linalg.inv(T_first_cam)[None], lenses[None]


def _restored(
    rule: ImageRule, values: Tensor | None, views: int, size: tuple[int, int], full: tuple[int, int]
) -> Tensor | None:  # [F, H, W]
    return None if values is None else rule.restore(values.reshape(views, *size), *full)
