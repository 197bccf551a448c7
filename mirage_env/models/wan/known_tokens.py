"""Memory conditioning without a trained side branch: read-out tokens are given to the network as known ones.

Image-to-video weights of the Wan family were trained with clean latents at timestep 0 for what is given (frame 0) and
noise for the rest, token by token. Read-out tokens are given in the same way, but they are moved copies and not quite
true, so each comes with a noise level of its own, and the last steps of the sampler revise it with all others. (Compare
WorldWarp, arXiv 2512.19678, and Time-to-Move, arXiv 2511.08633.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.config.sampler import PlacementConfig
from mirage_env.interfaces import Readout

FREE = 1.0
"""Level of a token that nothing is known of: the sampler's own."""


def known_levels(
    readout: Readout,  # T views
    config: PlacementConfig,
    patch: tuple[int, int],  # rows and columns of cells per token
) -> Tensor:  # [T, h, w] in [0, 1]
    """Noise level at which each cell is known, the same all over a token; `FREE` where one of its cells is unknown."""
    level = config.base + config.per_chunk * readout.age + config.per_scale * readout.scale.abs()
    level = torch.where(readout.observed > 0, level.clamp(max=config.most), FREE)
    worst = F.max_pool2d(level[None], patch, patch)[0]
    return worst.repeat_interleave(patch[0], -2).repeat_interleave(patch[1], -1)
