"""Checkpoints of the real geometry models with random weights, saved in the layout of the hub; each is under 20 MB."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import pre_tokenizers
from torch import nn
from transformers import (
    CLIPTokenizer,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DepthProConfig,
    DepthProForDepthEstimation,
    PreTrainedModel,
    PromptDepthAnythingConfig,
    PromptDepthAnythingForDepthEstimation,
    Qwen2Tokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Sam3Config,
    Sam3Model,
    Sam3VideoConfig,
    Sam3VideoModel,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)

DINO = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 56,
    "patch_size": 14,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
}
NECK = {
    "reassemble_hidden_size": 32,
    "neck_hidden_sizes": [8, 16, 16, 16],
    "fusion_hidden_size": 16,
    "head_hidden_size": 8,
}
SMALL = {"size": {"height": 56, "width": 56}, "ensure_multiple_of": 14, "keep_aspect_ratio": True, "resample": 3}
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def save_depth_anything(folder: Path, max_depth: int | None = 20) -> Path:
    """Metric with a largest depth, relative without."""
    kind = {"depth_estimation_type": "metric", "max_depth": max_depth} if max_depth else {}
    model = _lively(DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=DINO, **NECK, **kind)))
    if not max_depth:
        nn.init.constant_(model.head.conv3.bias, 3.0)  # the last step cuts off what is negative
    return _save(model, folder, SMALL)


def save_prompt_depth_anything(folder: Path) -> Path:
    config = PromptDepthAnythingConfig(backbone_config=DINO, **NECK)
    return _save(_lively(PromptDepthAnythingForDepthEstimation(config)), folder, SMALL)


def save_depth_pro(folder: Path, lens: bool = True) -> Path:
    vit = DINO | {"hidden_size": 16, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8, "out_indices": [1, 2]}
    config = DepthProConfig(
        fusion_hidden_size=16,
        patch_size=32,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5],
        scaled_images_feature_dims=[16, 8],
        merge_padding_value=1,
        use_fov_model=lens,
        num_fov_head_layers=1,
        image_model_config=vit,
        patch_model_config=vit,
        fov_model_config=vit,
    )
    model = _lively(DepthProForDepthEstimation(config))
    nn.init.constant_(model.head.layers[-2].bias, 1.0)  # the same
    return _save(model, folder, {"size": {"height": 64, "width": 64}, "resample": 2})


def save_zoedepth(folder: Path) -> Path:
    beit = DINO | {"model_type": "beit", "image_size": 64, "patch_size": 16, "use_relative_position_bias": True}
    config = ZoeDepthConfig(
        backbone_config=beit | {"add_fpn": False},
        neck_hidden_sizes=[8, 16, 16, 16],
        fusion_hidden_size=16,
        bottleneck_features=16,
        num_relative_features=8,
        bin_embedding_dim=16,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"name": "nyu", "n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
    )
    rule = {"size": {"height": 64, "width": 96}, "ensure_multiple_of": 32, "keep_aspect_ratio": True, "resample": 2}
    return _save(_lively(ZoeDepthForDepthEstimation(config)), folder, rule)


def save_sam3(folder: Path, video: bool = False, width: int = 32) -> Path:
    """The image model, or the video model, whose tracker needs `width` 128."""
    if not video:
        _lively(model := Sam3Model(Sam3Config(**_sam3(width))))
    else:
        tracker = {
            "model_type": "sam3_tracker_video",
            "vision_config": _sam3(width)["vision_config"],
            "prompt_encoder_config": {"hidden_size": width, "image_size": 56, "mask_input_channels": 8},
            "mask_decoder_config": {"hidden_size": width, "mlp_dim": 64, "num_attention_heads": 2},
            "memory_attention_hidden_size": width,
            "memory_attention_num_layers": 1,
            "memory_attention_feed_forward_hidden_size": 64,
            "memory_encoder_hidden_size": width,
            "mask_downsampler_embed_dim": width,
            "memory_fuser_embed_dim": width,
            "memory_fuser_intermediate_dim": 64,
            "memory_fuser_num_layers": 1,
            "image_size": 56,
        }
        detector = {"model_type": "sam3", **_sam3(width)}
        config = Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=16)
        _lively(model := Sam3VideoModel(config))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return _save(model, folder)


def save_qwen3_vl(folder: Path) -> Path:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    tokenizer.add_tokens(CHAT_TOKENS, special_tokens=True)
    numbers = dict(zip(CHAT_TOKENS, tokenizer.convert_tokens_to_ids(CHAT_TOKENS), strict=True))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=numbers["<|image_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.update(do_sample=True, top_k=20, top_p=0.8, temperature=0.7)  # as published
    tokenizer.save_pretrained(folder)
    return _save(model, folder, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16})


def _sam3(width: int) -> dict:
    layers = {"hidden_size": width, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vit = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    }
    return {
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": vit,
            "fpn_hidden_size": width,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": 514,
            "hidden_size": 32,
            "intermediate_size": 64,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "bos_token_id": 512,
            "eos_token_id": 513,
        },
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": layers | {"num_queries": 6},
        "mask_decoder_config": {"hidden_size": width, "num_attention_heads": 2},
    }


def _lively(model: nn.Module) -> nn.Module:
    """Weights large enough that what comes out depends on what goes in, as with trained ones."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def _save(model: PreTrainedModel, folder: Path, images: dict | None = None) -> Path:
    model.save_pretrained(folder)
    if images:
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder
