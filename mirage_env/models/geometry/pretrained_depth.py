"""Depth models of the transformers library behind `DepthEstimator`, one small class per kind of result.

They differ in what they say of an image: metres for one lens (Depth Anything metric, ZoeDepth), inverse depth for a
canonical lens (Depth Pro), inverse depth up to scale and shift (Depth Anything relative), or metres that follow a
coarse depth map given with it (Prompt Depth Anything). All views of a call go through the network at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mirage_env.camera import Camera
from mirage_env.config.world import AlignmentConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import DepthEstimator
from mirage_env.memory.depth_scale import align_depth
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.models.geometry.image_preprocessing import ImageRule
from mirage_env.models.geometry.inverse_depth import InverseFit, default_fit, fit_views

ENCODERS = ("backbone", "depth_pro", "fov_model")
"""Parts of the networks that may be of any type."""


@dataclass(frozen=True, eq=False)
class DepthNetwork:
    """A depth network, and what it wants of its images."""

    module: PreTrainedModel
    rule: ImageRule
    near: float
    far: float

    @staticmethod
    def of(module: PreTrainedModel, dtype: torch.dtype, rule: ImageRule, near: float, far: float) -> DepthNetwork:
        """Run the encoder of a float32 network in that type, and what makes depth of its features in float32.

        The 8 bits of bfloat16 would make terraces of a wall. Depth Anything 3's own code parts them in the same place.
        """
        for name, part in module.named_children():
            if name in ENCODERS:
                part.to(dtype)
            else:
                part.register_forward_pre_hook(_in_float32, with_kwargs=True)
        return DepthNetwork(module, rule, near, far)

    def run(
        self,
        images: Tensor,  # [F, 3, H, W]
        prompt: Tensor | None = None,  # [F, h, w] metres
    ) -> Tensor:  # [F, H, W] float32, on the network's device
        """Raw prediction of the network, in its own units."""
        return self.rule.restore(self.outputs(images, prompt)["predicted_depth"], *images.shape[-2:])

    @torch.inference_mode()
    def outputs(self, images: Tensor, prompt: Tensor | None = None) -> dict[str, Tensor]:
        """Everything the network says."""
        device, dtype = self.module.device, self.module.dtype
        extra = {} if prompt is None else {"prompt_depth": prompt[:, None].to(device, torch.float32)}
        return self.module(pixel_values=self.rule.prepare(images, device, dtype), **extra)

    def focal(self, cameras: Sequence[Camera]) -> Tensor:  # [F, 1, 1] float32, on the network's device
        """Focal length of the cameras in pixels of the network's input."""
        lengths = []
        for camera in cameras:
            rows, cols = self.rule.padding(camera.height, camera.width)
            padded = camera.width + 2 * cols
            scale = self.rule.network_size(camera.height + 2 * rows, padded)[1] / padded
            lengths.append(float(camera.K_image[0, 0]) * scale)
        return torch.tensor(lengths, dtype=torch.float32, device=self.module.device)[:, None, None]

    def reach(self, cameras: Sequence[Camera]) -> Tensor:  # [F] metres
        """`far` for every camera: the range of estimators that have no end of their own."""
        return torch.full((len(cameras),), self.far)

    def bounded(self, metres: Tensor, images: Tensor) -> Tensor:  # [F, H, W]
        """Depth within `near` and `far`, where the images are."""
        return metres.clamp(self.near, self.far).to(images.device)


def _in_float32(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Floating-point arguments of a part of a network, in lists too, as float32."""

    def exact(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(exact, value))
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    return exact(args), {name: exact(value) for name, value in kwargs.items()}


@dataclass(frozen=True, eq=False)
class MetricDepth:
    """Metres for the lens of the training data, scaled to the camera's own (Depth Anything metric, ZoeDepth)."""

    network: DepthNetwork
    canonical_focal: float
    """Focal length of that lens, pixels of the network's input; 0: depth is taken as it comes."""
    largest: float = math.inf
    """Largest depth that the network gives, metres, for the lens of the training data."""

    def reach(self, cameras: Sequence[Camera]) -> Tensor:  # [F] metres
        """Largest depth for those cameras, at most `far`."""
        largest = torch.full((len(cameras),), self.largest)
        if self.canonical_focal:
            largest = largest * self.network.focal(cameras)[:, 0, 0].cpu() / self.canonical_focal
        return largest.clamp(max=self.network.far)

    def estimate(
        self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None
    ) -> Tensor:  # [F, H, W] metres in [near, far]
        """See `DepthEstimator.estimate`; what is known plays no part."""
        metres = self.network.run(images)
        if self.canonical_focal:
            metres = metres * (self.network.focal(cameras) / self.canonical_focal)
        return self.network.bounded(metres, images)


@dataclass(frozen=True, eq=False)
class CanonicalInverseDepth:
    """Inverse depth of a camera whose focal length is its image width (Depth Pro)."""

    network: DepthNetwork

    def reach(self, cameras: Sequence[Camera]) -> Tensor:  # [F] metres
        """`far`: the model has no end of its own."""
        return self.network.reach(cameras)

    def estimate(
        self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None
    ) -> Tensor:  # [F, H, W] metres in [near, far]
        """See `DepthEstimator.estimate`; the lens is that of the cameras, not the one the model would guess."""
        inverse = self.network.run(images)
        zoom = [float(c.K_image[0, 0]) / c.width for c in cameras]
        metres = inverse.new_tensor(zoom)[:, None, None] / inverse.clamp_min(1e-4)
        return self.network.bounded(metres, images)

    def field_of_view(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F] radians, horizontal
        """The lens that the model guesses from the images, for a start view without intrinsics.

        Raises:
            InvalidOptionError: the checkpoint was published without that part.
        """
        degrees = self.network.outputs(images)["field_of_view"] if self.network.module.use_fov_model else None
        if degrees is None:
            raise InvalidOptionError("this Depth Pro checkpoint has no field of view model; give the field of view")
        return torch.deg2rad(degrees.float()).to(images.device)


@dataclass(frozen=True, eq=False)
class RelativeDepth:
    """Inverse depth up to scale and shift, fitted to what the memory shows (Depth Anything relative)."""

    network: DepthNetwork
    start_depth: float
    min_cells: int

    def reach(self, cameras: Sequence[Camera]) -> Tensor:  # [F] metres
        """`far`: the model has no end of its own."""
        return self.network.reach(cameras)

    def estimate(
        self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None
    ) -> Tensor:  # [F, H, W] metres in [near, far]
        """See `DepthEstimator.estimate`; without anything known, `inverse_depth.default_fit` makes metres of it."""
        inverse = self.network.run(images)
        fits: list[InverseFit | None] = [None] * len(images)
        if known is not None:
            # Negative, so that of the two middle samples of a cell the nearer one counts, as with depth.
            cells = -depth_to_grid(-inverse, (known.shape[-2], known.shape[-1])).cpu().numpy()
            fits = fit_views(cells, known.float().cpu().numpy(), self.min_cells)
        chosen = [
            fit or default_fit(view, self.start_depth, self.network.far)
            for fit, view in zip(fits, inverse.cpu().numpy(), strict=True)
        ]
        scale, shift = inverse.new_tensor([(f.scale, f.shift) for f in chosen]).T[:, :, None, None]
        return self.network.bounded(1.0 / (scale * inverse + shift).clamp_min(1.0 / self.network.far), images)


@dataclass(frozen=True, eq=False)
class PromptedDepth:
    """Metres that follow a coarse depth map: the memory's own z-buffer (Prompt Depth Anything).

    The prompt must be dense, and these models cannot begin without one. `first`, a metric model, gives the depth where
    nothing is known at all, and the cells of the prompt that the memory does not show, in the memory's scale.
    """

    network: DepthNetwork
    first: DepthEstimator
    min_cells: int

    def reach(self, cameras: Sequence[Camera]) -> Tensor:  # [F] metres
        """`far`: the model has no end of its own."""
        return self.network.reach(cameras)

    def estimate(
        self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None
    ) -> Tensor:  # [F, H, W] metres in [near, far]
        """See `DepthEstimator.estimate`."""
        alone = self.first.estimate(images, cameras)
        if known is None or not (known > 0.0).any():
            return alone
        known = known.float().cpu()
        filled = depth_to_grid(alone.cpu(), (known.shape[-2], known.shape[-1]))
        filled = filled * (known_scale(alone, known, self.min_cells) or 1.0)
        prompt = torch.where(known > 0.0, known, filled)
        # The network divides by the range of the prompt.
        flat = prompt.amax((-2, -1)) - prompt.amin((-2, -1)) < 1e-3
        prompt[flat, 0, 0] += 1e-3
        return self.network.bounded(self.network.run(images, prompt), images)


def known_scale(
    depth: Tensor,  # [F, H, W] metres in some unit
    known: Tensor | None,  # [F, h, w] metres, 0 where nothing is known
    min_cells: int,
) -> float | None:
    """Metres per unit of depth, one for all views (`depth_scale.py`); None where too little is known to say."""
    if known is None:
        return None
    cells = depth_to_grid(depth.float(), (known.shape[-2], known.shape[-1])).cpu().numpy()
    rule = AlignmentConfig(min_cells=min_cells, min_agreement=0.0, max_scale=1e6)
    fit = align_depth(cells, known.float().cpu().numpy(), np.isfinite(cells), rule)
    return fit.scale if fit.cells >= min_cells else None
