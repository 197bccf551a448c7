"""Low-rank updates of the backbone's self-attention (stage 2), through peft."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from mirage_env.training.checkpoint import whole

TARGETS = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]
RANK = 64


def add_lora(transformer: WanTransformer3DModel, rank: int = RANK, dropout: float = 0.05) -> list[nn.Parameter]:
    """Add adapters (alpha = rank) and return their parameters, float32 whatever the type of the weights."""
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, lora_dropout=dropout, target_modules=TARGETS, init_lora_weights=True)
    )
    adapters = [p for n, p in transformer.named_parameters() if "lora_" in n]
    for parameter in adapters:
        parameter.data = parameter.data.float()
    return adapters


@torch.no_grad()
def lora_state(transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    """Adapter weights under the names that diffusers' LoRA files use."""
    return {f"transformer.{k}": whole(v).cpu() for k, v in get_peft_model_state_dict(transformer).items()}
