"""EfficientNet-Lite encoder: features of images at five scales, from published ImageNet weights or from nothing.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019); the lite variants have no
squeeze and excitation and ReLU6 in the place of swish, which suits CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Blocks, kernel, stride, expansion and width of each stage of Lite0 (its last stage, 320 wide, adds no scale).
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
TAPS = (0, 1, 2, 4, 5)  # stages whose output is the last at its scale: 1/2, 1/4, 1/8, 1/16, 1/32
STEM = 32
WIDTHS = tuple(stage[-1] for stage in STAGES)
DEPTHS = tuple(stage[0] for stage in STAGES)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: ceil(n / stride) outputs, the odd pixel of padding behind."""

    def forward(self, x: Tensor) -> Tensor:
        pad = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        if pad[::2] != pad[1::2]:
            x, pad = F.pad(x, pad), [0] * len(pad)
        # The gradient of grouped convolutions in bfloat16 takes a CPU so long that a step would last 2.5 times as long.
        exact = self.groups > 1 and x.device.type == "cpu"
        with torch.autocast("cpu", enabled=not exact and torch.is_autocast_enabled("cpu")):
            # Without a copy where both sides have the same padding, as nearly everywhere.
            given = x.to(self.weight.dtype) if exact else x
            out = F.conv2d(given, self.weight, self.bias, self.stride, tuple(pad[::-2]), groups=self.groups)
        return out.to(x.dtype) if exact else out


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01), *([nn.ReLU6()] if relu else [])]


class InvertedResidual(nn.Module):
    """Expand, filter each channel for itself, project; added to its input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = _conv(inputs, hidden) if expansion > 1 else []
        filtered = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self.layers = nn.Sequential(*expand, *filtered, *_conv(hidden, outputs, relu=False))
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class EfficientNetLite(nn.Module):
    """Images [F, 3, H, W] in [-1, 1] -> features at 1/2, 1/4, 1/8, 1/16 and 1/32 of their size."""

    def __init__(self, widths: Sequence[int] = WIDTHS, stem: int = STEM, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, stem, 3, 2))
        self.stages = nn.ModuleList()
        inputs = stem
        for (_, kernel, stride, expansion, _), width, blocks in zip(STAGES, widths, depths, strict=True):
            shapes = [(inputs, stride), *[(width, 1)] * (blocks - 1)]
            self.stages.append(nn.Sequential(*(InvertedResidual(n, width, kernel, s, expansion) for n, s in shapes)))
            inputs = width
        self.widths = tuple(widths[i] for i in TAPS)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x.to(memory_format=torch.channels_last))
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in TAPS:
                features.append(x)
        return features

    def load_imagenet(self, published: Mapping[str, Tensor]) -> None:
        """Take the published weights of Lite0 (the naming of the package `efficientnet-lite-pytorch`).

        Its layers stand in the order of ours; what lies behind the last stage of ours is left out.

        Raises:
            RuntimeError: a weight is missing or has another shape.
        """
        own = self.state_dict()
        values = [published[name] for name in published if not name.endswith("num_batches_tracked")]
        names = [name for name in own if not name.endswith("num_batches_tracked")]
        if len(values) < len(names):
            raise RuntimeError(f"{len(values)} weights were given; the encoder has {len(names)}")
        self.load_state_dict({**own, **dict(zip(names, values[: len(names)], strict=True))})
