"""The colours that latents stand for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.interfaces import LatentCodec

PARTS = 4
"""A patch has so many colours along each side."""
SAMPLE = 1024
"""Most features that are decoded to learn what colours features have."""


class Palette:
    """The colours each latent stands for: those of a patch decoded from it, learned as an affine map.

    Learned from the first points there are, and again whenever there are twice as many.

    Args:
        codec: decodes latents.
    """

    def __init__(self, codec: LatentCodec) -> None:
        self._codec = codec
        self._learned_from = 0
        self._affine = np.zeros((1, PARTS * PARTS * 3))

    @torch.inference_mode()
    def colours(self, features: NDArray[np.float32], parts: int) -> NDArray[np.uint8]:  # [N, C] -> [N, parts^2, 3]
        """Colours of the parts of each patch, row by row; `parts` divides `PARTS`."""
        if not len(features):
            return np.zeros((0, parts * parts, 3), np.uint8)
        sample = features[np.linspace(0, len(features) - 1, min(SAMPLE, len(features))).astype(int)]
        if len(sample) >= 2 * self._learned_from:
            self._learn(sample)
        many = (_with_one(features) @ self._affine).reshape(-1, parts, PARTS // parts, parts, PARTS // parts, 3)
        colours = many.mean((2, 4)).reshape(-1, parts * parts, 3)
        return ((colours + 1.0) * 127.5).round().clip(0, 255).astype(np.uint8)

    def _learn(self, sample: NDArray[np.float32]) -> None:  # [S, C]
        latents = torch.from_numpy(sample)[:, :, None, None].expand(-1, -1, 3, 3)
        decoded = torch.cat([self._codec.decode(part.contiguous()) for part in latents.split(64)]).float().cpu()
        side = decoded.shape[-1] // 3
        patches = decoded[..., side : 2 * side, side : 2 * side]
        wanted = torch.nn.functional.adaptive_avg_pool2d(patches, PARTS).permute(0, 2, 3, 1).flatten(1).double().numpy()
        known, ridge = _with_one(sample), 1e-3 * np.eye(sample.shape[1] + 1)
        self._affine = np.linalg.solve(known.T @ known / len(known) + ridge, known.T @ wanted / len(known))
        self._learned_from = len(sample)


def _with_one(features: NDArray[np.floating]) -> NDArray[np.float64]:  # [N, C] -> [N, C + 1]
    return np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
