"""The verb `network`: the networks of a server's model as functions of arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.serving import requests as asked
from mirage_env.serving.wire import LARGEST, Arrays, pack

if TYPE_CHECKING:
    from mirage_env.serving.service import Service

CELLS = dict.fromkeys(("observed", "depth", "scale", "age"), "Fhw")
READOUT = CELLS | {"latent": "FChw", "offset": "F2hw", "quarters": "FQhw"}
ARRAYS: dict[asked.Part, dict[str, str]] = {
    "encode": {"images": "F3HW"},
    "encode_chunk": {"frames": "F3HW", "first": "Chw"},
    "encode_video": {"frames": "F3HW"},
    "decode": {"latents": "FCab"},
    "decode_chunk": {"latents": "FChw", "first": "Chw"},
    "refine": {f.name: READOUT[f.name] for f in fields(Readout)},
    "estimate": {"images": "F3HW", "known": "Fhw"},
    "segment": {"images": "F3HW"},
}
"""Arrays of each part, and their axes: F views, images H x W, latents of C channels, h x w cells, a x b of them."""


class NetworkVerb:
    """Answers `network`, in the thread of the worlds, because networks serve one thread at a time."""

    def __init__(self, service: Service) -> None:
        self._service, self._model = service, service.model

    async def network(self, request: asked.Network, arrays: Arrays, owner: str) -> bytes:
        """Answer `network`."""
        given = self._checked(request, arrays)

        def run() -> bytes:
            with torch.inference_mode():
                return pack({"part": request.part}, {"out": self._run(request, given).cpu().numpy()})

        return await self._service.in_thread(run)

    def _run(self, request: asked.Network, given: dict[str, Tensor]) -> Tensor:
        model, part = self._model, request.part
        if part == "segment":
            return model.segmenter.segment(**given)
        if part == "refine":
            return model.refiner.refine(Readout(**given)).float()
        if part == "estimate":
            cameras = [Camera(np.array(T), np.array(request.K), *model.config.image_size) for T in request.poses or ()]
            return model.depth.estimate(given["images"], cameras, given.get("known")).float()
        out: Tensor = getattr(model.codec, part)(**given)
        return out.float()

    def _checked(self, request: asked.Network, arrays: Arrays) -> dict[str, Tensor]:
        """The arrays as tensors.

        Raises:
            InvalidOptionError: not those of the part, or of other shapes.
        """
        c, part, axes = self._model.config, request.part, ARRAYS[request.part]
        (H, W), (h, w) = c.image_size, c.latent_size
        sizes = {"H": H, "W": W, "h": h, "w": w, "C": c.latent_channels, "2": 2, "3": 3}
        sizes["Q"] = 4 * (c.latent_channels + 6) * c.readout.quarters
        most = {"F": LARGEST // (12 * H * W), "a": h, "b": w}  # answers are frames at most, float32
        shapes = {name: a.shape for name, a in arrays.items()}
        fits = axes.keys() - {"known"} <= shapes.keys() <= axes.keys()
        for name, shape in shapes.items() if fits else ():
            fits &= len(shape) == len(axes[name]) and arrays[name].dtype == np.float32
            for axis, size in zip(axes[name], shape, strict=False):
                fits &= int(axis != "Q") <= size <= most.get(axis, size) and size == sizes.setdefault(axis, size)
        if part in ("encode_chunk", "encode_video"):
            fits &= (sizes.get("F", 0) - (part == "encode_video")) % c.temporal_stride == 0
        if not fits:
            raise InvalidOptionError(f"{part} was given {shapes}; give float32 arrays {axes}, at most {most}, {sizes}")
        if part == "estimate" and (request.K is None or len(request.poses or ()) != sizes["F"]):
            raise InvalidOptionError(f"estimate was given {sizes['F']} images; give K and as many poses")
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
