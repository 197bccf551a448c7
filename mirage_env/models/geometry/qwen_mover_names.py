"""Names of movers in a chunk, asked of a vision-language model (Qwen3-VL).

The answer of a language model is text: it is read leniently, and what cannot be read names nothing.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

from mirage_env.config.geometry import SegmentationConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.files import parse_json
from mirage_env.models.geometry.image_preprocessing import ImageRule
from mirage_env.models.io.transformers_checkpoints import (
    find_checkpoint,
    load_pretrained,
    load_tokenizer,
    optional_json,
)

IMAGE_TOKEN, BEGIN, END = "<|image_pad|>", "<|im_start|>", "<|im_end|>"
BEFORE_IMAGE, AFTER_IMAGE = "<|vision_start|>", "<|vision_end|>"
QUESTION = (
    "These are frames of one short video. Which kinds of things in it move, or might move by themselves, such as "
    "people, animals or vehicles? Name at most {most}, the most certain first. Answer with nothing but a JSON list of "
    'English nouns in the singular, for example ["person", "car"], or [] if there are none.'
)
NOTHING = {"none", "nothing", "n/a", "no", "null", "empty", "nil"}
SENTENCES = {"i", "it", "is", "are", "there", "this", "can", "cannot", "not", "no", "see", "and", "or", "in", "sorry"}
"""Words that no noun has: what has one is a sentence."""
LONGEST, MOST_WORDS = 40, 3
"""Characters and words of a noun."""
AROUND = " \t\n\"'`.!*"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MoverNamer:
    """Asks Qwen3-VL what may move in some frames."""

    module: Qwen3VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    rule: ImageRule
    """Its mean and deviation; the size follows from the frames."""
    max_nouns: int
    frames: int
    """Most frames that are shown to it, spread evenly."""
    pixels: int
    """Most pixels of each of them."""

    def name(self, images: Tensor) -> tuple[str, ...]:  # [F, 3, H, W] in [-1, 1]
        """Nouns in the singular, at most `max_nouns`; none where the answer makes no sense."""
        return parse_nouns(self.answer(images), self.max_nouns)

    @torch.inference_mode()
    def answer(self, images: Tensor) -> str:  # [F, 3, H, W]
        """Answer of the model, word for word; the same frames always get the same one."""
        shown = torch.linspace(0, len(images) - 1, min(self.frames, len(images))).round().long()
        patches, grid = self.patches(images[shown.to(images.device)])
        config, device = self.module.config, self.module.device
        per_image = int(grid[0].prod()) // config.vision_config.spatial_merge_size**2
        picture = BEFORE_IMAGE + IMAGE_TOKEN * per_image + AFTER_IMAGE
        question = QUESTION.format(most=self.max_nouns)
        text = f"{BEGIN}user\n{picture * len(shown)}{question}{END}\n{BEGIN}assistant\n"
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(device)
        out = self.module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == config.image_token_id).int(),
            pixel_values=patches,
            image_grid_thw=grid.to(device),
        )
        return self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    def patches(self, images: Tensor) -> tuple[Tensor, Tensor]:  # [F * gh * gw, patch values], [F, 3]
        """Frames as the vision tower reads them: patches, 2 x 2 neighbours together, and their grid (1, gh, gw)."""
        vision = self.module.config.vision_config
        side, merge, times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        height, width = shown_size(images.shape[-2], images.shape[-1], side * merge, self.pixels)
        rule = ImageRule((height, width), mean=self.rule.mean, std=self.rule.std, mode="bicubic")
        pixels = rule.prepare(images, self.module.device, torch.float32)
        rows, cols = height // side, width // side
        blocks = pixels.reshape(len(images), 3, rows // merge, merge, side, cols // merge, merge, side)
        blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]  # a still stands for `times` frames
        blocks = blocks.expand(*blocks.shape[:6], times, side, side).reshape(len(images) * rows * cols, -1)
        return blocks.to(self.module.dtype), torch.tensor([[1, rows, cols]]).expand(len(images), 3)


def shown_size(height: int, width: int, factor: int, most_pixels: int) -> tuple[int, int]:
    """Size near that of an image, not above about `most_pixels`, with sides that are multiples of `factor`."""
    shrink = min(1.0, math.sqrt(most_pixels / (height * width)))
    sides = (height * shrink / factor, width * shrink / factor)
    high, wide = (max(1, round(s) if shrink == 1.0 else math.floor(s)) * factor for s in sides)
    return high, wide


def parse_nouns(answer: str, most: int) -> tuple[str, ...]:
    """Nouns in an answer: a JSON list, a list with bullets or numbers, or words with commas between.

    An answer without anything that looks like a noun gives none, and a warning in the log.
    """
    text = answer.rsplit("</think>", 1)[-1]
    listed = re.search(r"\[[^\[\]]*\]", text)
    items = _json_items(listed.group()) if listed else None
    if items is None:
        inside = listed.group()[1:-1] if listed else text
        items = re.split(r"[,;\n]", re.sub(r"```\w*", "", inside))
    nouns = tuple(dict.fromkeys(noun for item in items if (noun := _noun(item))))[:most]
    if not nouns and not _says_nothing(items):
        logger.warning("the namer of movers answered %r, which names nothing; no mover is taken from it", answer)
    return nouns


def _json_items(text: str) -> list[str] | None:
    """Items of a JSON list, of objects in it their values; None if it is none."""
    try:
        values = parse_json(text, "an answer")
    except InvalidOptionError:
        return None
    if not isinstance(values, list | dict):
        return None
    flat = [v for value in values for v in (value.values() if isinstance(value, dict) else [value])]
    return [str(value) for value in flat]


def _noun(item: str) -> str:
    """An item in small letters without bullet, quotes and article; empty if it is no noun."""
    word = re.sub(r"^[\s\-*•\d.)(\[{\"']+", "", item.lower())
    word = re.sub(r"^(a|an|the|some)\s+", "", word.strip(AROUND))
    words = word.split()
    fits = re.fullmatch(r"[a-z][a-z' \-]*", word) and len(word) <= LONGEST and len(words) <= MOST_WORDS
    return word if fits and not SENTENCES.intersection(words) and word not in NOTHING else ""


def _says_nothing(items: Sequence[str]) -> bool:
    """True if items are the answer of a model that found nothing, as [] or "none" is."""
    words = [item.strip(AROUND).lower() for item in items]
    return not words or set(words) <= NOTHING


def load_namer(config: SegmentationConfig, device: torch.device, dtype: torch.dtype) -> MoverNamer:
    """Qwen3-VL from a checkpoint.

    Raises:
        ModelNotFoundError, InvalidOptionError, WeightsError: as `loader.load_segmentation`.
    """
    folder = find_checkpoint(config.namer, config.namer_revision)
    module = load_pretrained(Qwen3VLForConditionalGeneration, folder, device, dtype)
    tokenizer = load_tokenizer(folder)
    numbers = {token: tokenizer.convert_tokens_to_ids(token) for token in (IMAGE_TOKEN, BEGIN, END)}
    if numbers[IMAGE_TOKEN] != module.config.image_token_id or numbers[END] in (None, tokenizer.unk_token_id):
        raise InvalidOptionError(
            f"the tokenizer of {config.namer} has the tokens {numbers}, its network the image token "
            f"{module.config.image_token_id}: they do not belong together; copy the checkpoint again"
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else numbers[END]
    # In the place of the published settings, which draw the words.
    module.generation_config = GenerationConfig(
        max_new_tokens=config.namer_tokens, do_sample=False, eos_token_id=numbers[END], pad_token_id=pad
    )
    settings = optional_json(folder / "preprocessor_config.json")
    rule = ImageRule((1, 1)).configured({k: v for k, v in settings.items() if k in ("image_mean", "image_std")})
    return MoverNamer(module, tokenizer, rule, config.max_nouns, config.namer_frames, config.namer_pixels)
