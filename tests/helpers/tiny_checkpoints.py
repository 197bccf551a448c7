"""Checkpoints of the real classes of a full-size model with random weights, in the hub's layout: a few megabytes.

64 x 96 images, 4 x 6 latents of 48 channels, 4 frames per latent.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from mirage_env.models.io.state_dicts import save_module
from mirage_env.models.wan.side_branch import ControlBranch

IMAGE_SIZE = (64, 96)
TEXT_DIM = 32
SETTINGS = {
    "image_size": list(IMAGE_SIZE),
    "chunk_latents": 3,
    "sampler": {"steps": 2},
    "filters": {"edge_jump": 10.0, "edge_share": 1.0},
    "geometry": {"depth": {"skip_sky": False}},
}
"""Short chunks and few steps; random depth is all edges and ends, which would leave nothing to remember."""


def transformer(seed: int = 0, layers: int = 3) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=48,
        out_channels=48,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=layers,
    )


def autoencoder(seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    return AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=16,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        latents_mean=[0.1] * 48,
        latents_std=[0.5] * 48,
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer in T5's layout, trained here on a few words."""
    words = Tokenizer(models.Unigram())
    words.normalizer = normalizers.NFKC()
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    text = ["a sunny living room with a red chair", "a courtyard in the rain", "the quick brown fox"]
    special = ["<pad>", "</s>", "<unk>"]
    words.train_from_iterator(
        text, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def text_encoder(seed: int = 0) -> UMT5EncoderModel:
    torch.manual_seed(seed)
    return UMT5EncoderModel(
        UMT5Config(vocab_size=64, d_model=TEXT_DIM, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0)
    )


def save_pipeline(folder: Path, shards: bool = False) -> Path:
    """Write a whole checkpoint as diffusers and transformers write it."""
    size = {"max_shard_size": "100KB"} if shards else {}
    transformer().save_pretrained(folder / "transformer", **size)
    autoencoder().save_pretrained(folder / "vae")
    text_encoder().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0).save_pretrained(
        folder / "scheduler"
    )
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.35.0",
        "expand_timesteps": True,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "mirage.json").write_text(json.dumps(SETTINGS))
    return folder


def save_control(folder: Path, std: float = 0.1) -> Path:
    """Write a side branch of our layout; with `std` 0 it is untrained and adds nothing."""
    branch = ControlBranch.from_transformer(transformer(), ("readout", "observed", "rays"), (0, 2))
    torch.manual_seed(1)
    for layer in branch.after_proj:
        torch.nn.init.normal_(layer.weight, std=std)
    save_module(branch, folder, torch.float32)
    return folder


def save_lora(file: Path, rank: int = 2) -> Path:
    """Write low-rank updates of all self-attention layers, in peft's layout."""
    torch.manual_seed(2)
    weights = {}
    for name, parameter in transformer().named_parameters():
        if ".attn1.to_" in name and parameter.ndim == 2:
            layer = f"transformer.{name.removesuffix('.weight')}"
            weights[f"{layer}.lora_A.weight"] = 0.3 * torch.randn(rank, parameter.shape[1])
            weights[f"{layer}.lora_B.weight"] = 0.3 * torch.randn(parameter.shape[0], rank)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    return file


def change_weights(file: Path, change) -> str:
    """Apply `change(weights, name)` to a weight file, with the name of its first tensor; returns that name."""
    weights = load_file(file)
    name = next(iter(weights))
    change(weights, name)
    save_file(weights, file, metadata={"format": "pt"})
    return name
