"""Transformers with patches twice as wide as trained ones: as many tokens for four times the cells.

At twice the image size a token then covers the same part of the picture as before, so the blocks need not learn anew
what they know; patch embedding and output begin as the mean over, and the repetition to, the cells of a patch.
"""

from __future__ import annotations

from typing import Any

from diffusers import WanTransformer3DModel
from torch import Tensor

from mirage_env.models.wan.side_branch import ControlBranch


def wider_transformer(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    """A copy with patches of twice the height and width."""
    config, (_, height, width) = _wider_config(transformer)
    wide: WanTransformer3DModel = WanTransformer3DModel.from_config(config)
    weights = dict(transformer.state_dict())
    weights["patch_embedding.weight"] = _mean(weights["patch_embedding.weight"])
    for name in ("proj_out.weight", "proj_out.bias"):
        weights[name] = _repeated(weights[name], height, width)
    wide.load_state_dict(weights)
    return wide


def wider_branch(branch: ControlBranch) -> ControlBranch:
    """A copy with patches of twice the height and width."""
    config, _ = _wider_config(branch)
    wide: ControlBranch = ControlBranch.from_config(config)
    weights = dict(branch.state_dict())
    weights["patch_embedding.weight"] = _mean(weights["patch_embedding.weight"])
    wide.load_state_dict(weights)
    return wide


def _wider_config(network: WanTransformer3DModel | ControlBranch) -> tuple[dict[str, Any], tuple[int, int, int]]:
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    frames, height, width = config["patch_size"]
    config["patch_size"] = [frames, 2 * height, 2 * width]
    return config, (frames, height, width)


def _mean(kernel: Tensor) -> Tensor:  # [D, C, 1, p, p] -> [D, C, 1, 2p, 2p]
    return kernel.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4.0


def _repeated(rows: Tensor, height: int, width: int) -> Tensor:  # [p p C, ...] -> [2p 2p C, ...]
    cells = rows.unflatten(0, (height, width, -1))
    return cells.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten(0, 2)
