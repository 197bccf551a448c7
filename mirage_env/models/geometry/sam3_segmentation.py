"""Movers and sky by their names: SAM 3 finds the things that a vocabulary names in all frames of a chunk.

Nouns come from the user's vocabulary and, if one is asked, from a language model that looks at the chunk
(`qwen_mover_names.py`). The library's image processor and its processor of the tracker need torchvision; the few
lines here do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Sam3Model, Sam3VideoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from mirage_env.config.geometry import SegmentationConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.models.geometry.image_preprocessing import ImageRule, resize
from mirage_env.models.geometry.qwen_mover_names import MoverNamer, load_namer
from mirage_env.models.io.state_dicts import read_json
from mirage_env.models.io.transformers_checkpoints import find_checkpoint, load_pretrained, load_tokenizer

TEXT_TOKENS = 32
"""Length to which SAM 3's nouns are padded."""


class Finder(Protocol):
    """Finds what nouns name."""

    def find(
        self,
        images: Tensor,  # [F, 3, H, W] in [-1, 1]
        nouns: Sequence[str],  # N
    ) -> Tensor:  # [N, F, H, W] bool, where the images are
        ...


@dataclass(frozen=True, eq=False)
class VocabularySegmenter:
    """Labels what a vocabulary names as MOVER, the sky as SKY, and all else as STATIC (`StaticSegmenter`)."""

    finder: Finder
    vocabulary: tuple[str, ...]
    sky: str
    namer: MoverNamer | None = None
    """Names further movers, anew for every chunk; see `named`."""

    def segment(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, H, W] int64
        """See `StaticSegmenter.segment`. What is found as both is a mover."""
        movers = self.nouns(images)
        sky = [self.sky] if self.sky else []
        labels = torch.full((len(images), *images.shape[-2:]), STATIC, dtype=torch.int64, device=images.device)
        if not movers and not sky:
            return labels
        found = self.finder.find(images, [*movers, *sky])
        labels[found[len(movers) :].any(0)] = SKY
        labels[found[: len(movers)].any(0)] = MOVER
        return labels

    def nouns(self, images: Tensor) -> tuple[str, ...]:
        """The vocabulary, and what the namer sees in the images."""
        named = () if self.namer is None else self.namer.name(images)
        return tuple(dict.fromkeys((*self.vocabulary, *named)))

    def named(self, images: Tensor) -> Self:  # [F, 3, H, W]
        """The same segmenter with the movers of these images for good.

        Asking once per world instead of once per chunk: `replace(model, segmenter=model.segmenter.named(view))`. The
        result is another segmenter, so that no world depends on what others have shown this one.
        """
        return replace(self, vocabulary=self.nouns(images), namer=None)


@dataclass(frozen=True, eq=False)
class ConceptFinder:
    """SAM 3 on every frame of its own; all frames at once, noun by noun (`Finder`)."""

    module: Sam3Model
    tokenizer: PreTrainedTokenizerBase
    score: float
    mask: float

    @torch.inference_mode()
    def find(self, images: Tensor, nouns: Sequence[str]) -> Tensor:  # [N, F, H, W] bool
        """See `Finder.find`."""
        vision = self.module.get_vision_features(pixel_values=_inputs(self.module, images))
        ids, attended = _tokens(self.tokenizer, nouns, self.module.device)
        texts = self.module.get_text_features(input_ids=ids, attention_mask=attended, return_dict=True).pooler_output
        found = []
        for text, words in zip(texts, attended, strict=True):
            out = self.module(
                vision_embeds=vision,
                text_embeds=BaseModelOutputWithPooling(pooler_output=text.expand(len(images), -1, -1)),
                attention_mask=words.expand(len(images), -1),
            )
            present = out.pred_logits.float().sigmoid() * out.presence_logits.float().sigmoid()  # [F, Q]
            masks = out.pred_masks.float().sigmoid() * (present > self.score)[:, :, None, None]
            found.append(masks.amax(1))
        return _at_size(torch.stack(found), images, self.mask)


@dataclass(frozen=True, eq=False)
class ConceptTracker:
    """SAM 3's video model: finds, and follows what it found through the frames (`Finder`)."""

    module: Sam3VideoModel
    tokenizer: PreTrainedTokenizerBase
    mask: float

    @torch.inference_mode()
    def find(self, images: Tensor, nouns: Sequence[str]) -> Tensor:  # [N, F, H, W] bool
        """See `Finder.find`."""
        device = self.module.device
        session = Sam3VideoInferenceSession(
            video=_inputs(self.module, images),
            video_height=images.shape[-2],
            video_width=images.shape[-1],
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=self.module.dtype,
        )
        ids, attended = _tokens(self.tokenizer, nouns, device)
        for i, noun in enumerate(nouns):
            prompt = session.add_prompt(noun)
            session.prompt_input_ids[prompt] = ids[i : i + 1]
            session.prompt_attention_masks[prompt] = attended[i : i + 1]
        frames = list(self.module.propagate_in_video_iterator(session))
        side = self.module.low_res_mask_size
        found = torch.zeros(len(nouns), len(images), side, side, device=device)
        for frame in frames:
            hidden = session.hotstart_removed_obj_ids | set(frame.suppressed_obj_ids)
            for track, logits in frame.obj_id_to_mask.items():
                if track not in hidden:
                    place = found[session.obj_id_to_prompt_id[track], frame.frame_idx]
                    place.copy_(torch.maximum(place, logits[0].float().sigmoid()))
        return _at_size(found, images, self.mask)


def load_vocabulary_segmenter(
    config: SegmentationConfig, device: torch.device, dtype: torch.dtype
) -> VocabularySegmenter:
    """SAM 3, and a namer if one is configured.

    A checkpoint of the video model (as `facebook/sam3` is) serves with and without tracking.

    Raises:
        ModelNotFoundError, InvalidOptionError, WeightsError: as `loader.load_segmentation`.
    """
    folder = find_checkpoint(config.model, config.revision)
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in (("sam3_video",) if config.tracking else ("sam3", "sam3_video")):
        needed = "tracking needs a 'sam3_video' checkpoint" if config.tracking else "a SAM 3 checkpoint is needed"
        raise InvalidOptionError(f"{config.model} has model_type {model_type!r}; {needed}, such as facebook/sam3")
    tokenizer = load_tokenizer(folder)
    finder: Finder
    if config.tracking:
        video = load_pretrained(Sam3VideoModel, folder, device, dtype)
        video.score_threshold_detection = video.new_det_thresh = config.score
        # These steps would fetch and run code from the hub; they tidy the masks of single objects, and all that counts
        # here is what all objects cover together.
        video.fill_hole_area, video.det_nms_thresh = 0, 0.0
        finder = ConceptTracker(video, tokenizer, config.mask)
    else:
        finder = ConceptFinder(load_pretrained(Sam3Model, folder, device, dtype), tokenizer, config.score, config.mask)
    namer = load_namer(config, device, dtype) if config.namer else None
    return VocabularySegmenter(finder, config.vocabulary, config.sky, namer)


def _inputs(module: PreTrainedModel, images: Tensor) -> Tensor:  # [F, 3, S, S]
    side = module.config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return ImageRule((height, width)).prepare(images, module.device, module.dtype)


def _tokens(tokenizer: PreTrainedTokenizerBase, nouns: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token numbers and attention masks [N, 32]."""
    given: Any = tokenizer(
        list(nouns), padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
    )
    return given.input_ids.to(device), given.attention_mask.to(device)


def _at_size(found: Tensor, images: Tensor, limit: float) -> Tensor:  # [N, F, h, w] -> [N, F, H, W] bool
    """Probabilities that are above the limit at the size of the images."""
    return (resize(found, (images.shape[-2], images.shape[-1]), "bilinear", antialias=False) > limit).to(images.device)
