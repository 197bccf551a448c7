"""Prompt embeddings of Wan's text encoder (UMT5), each computed once.

The encoder is larger than the transformer and is needed once per prompt. Embeddings are therefore kept, in memory and
in a folder if one is given, and the encoder is read only when a prompt comes that has none, and dropped after it. A
model may bring a folder `prompts/` of embeddings that were computed elsewhere; its prompts need no encoder at all.
"""

from __future__ import annotations

import hashlib
import html
import logging
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.files import new_folder, put_in_place
from mirage_env.models.io.state_dicts import TEXT_WEIGHTS, WeightFiles

TOKENS = 512
"""S: tokens of an embedding; Wan was trained with this many, zeros after the last of the prompt."""
_STRAIGHT = str.maketrans("\u201c\u201d\u2018\u2019", "\"\"''")

logger = logging.getLogger(__name__)


def clean_prompt(prompt: str) -> str:
    """A prompt as Wan was trained to see it: HTML entities resolved, quotes straight, single spaces.

    (Text that was decoded with the wrong character set is not repaired.)
    """
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(prompt))).translate(_STRAIGHT)
    return " ".join(text.split())


class PromptEncoder(Protocol):
    """Computes embeddings."""

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:  # [n, D] each, n <= S
        """Encode cleaned prompts: one vector for each token."""
        ...


class UMT5:
    """UMT5 encoder and tokenizer of a model in the diffusers layout (`PromptEncoder`); read when first used."""

    def __init__(
        self,
        encoder: Path,
        tokenizer: Path,
        device: torch.device,
        dtype: torch.dtype,
        make_place: Callable[[], None] | None = None,
    ) -> None:
        """Prepare to encode.

        Args:
            encoder: folder of the encoder.
            tokenizer: folder of the tokenizer.
            device: where the encoder runs.
            dtype: type of its weights.
            make_place: called before the encoder is put on the device.
        """
        self.folders = (encoder, tokenizer)
        self.device = device
        self.dtype = dtype
        self.make_place = make_place

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:  # [n, D] each
        """See `PromptEncoder.encode`; the encoder is read once, and on the device during this call only.

        Raises:
            ModelNotFoundError, WeightsError: the encoder or the tokenizer cannot be read.
        """
        encoder, tokenizer = self.folders
        tokens = tokens_of(prompts, tokenizer)
        logger.info("reading the text encoder for %d new prompts (%s)", len(prompts), encoder)
        module = load_text_encoder(encoder, self.dtype)
        if self.make_place is not None:
            self.make_place()
        module.to(self.device)
        embeddings = []
        for ids in tokens:  # one by one: without padding the encoder sees what padding and a mask would make it see
            ids = ids.to(self.device)
            embeddings.append(module(ids, torch.ones_like(ids)).last_hidden_state[0].cpu())
        del module
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return embeddings


def tokens_of(prompts: Sequence[str], folder: Path) -> list[Tensor]:  # [1, n] each
    """Tokenize cleaned prompts. What a prompt has beyond S tokens is left out, as in Wan's pipeline, with a warning.

    Raises:
        ModelNotFoundError: there is no tokenizer in the folder.
    """
    from mirage_env.models.io.transformers_checkpoints import load_tokenizer

    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no folder {folder} with a tokenizer; copy or download the model again")
    tokenizer, tokens = load_tokenizer(folder), []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=True).input_ids
        if len(ids) > TOKENS:
            logger.warning("the prompt %.40r... has %d tokens; the model reads the first %d", prompt, len(ids), TOKENS)
            ids = tokenizer(prompt, add_special_tokens=True, truncation=True, max_length=TOKENS).input_ids
        tokens.append(torch.tensor([ids]))
    return tokens


def load_text_encoder(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The UMT5 encoder of a folder on the CPU, strictly.

    Raises:
        ModelNotFoundError: there are no weights.
        WeightsError: they are damaged or do not fit, or are pickled.
    """
    from transformers import UMT5EncoderModel

    from mirage_env.models.io.transformers_checkpoints import load_pretrained

    WeightFiles.of(folder, TEXT_WEIGHTS).headers()
    return load_pretrained(UMT5EncoderModel, folder, torch.device("cpu"), dtype)


class Prompts:
    """Prompts to embeddings [B, S, D]: from a table, a folder, or an encoder, in this order."""

    def __init__(
        self,
        encoder: PromptEncoder | None,
        table: Path | None = None,
        cache: Path | None = None,
        model: str = "",
    ) -> None:
        """Prepare to embed.

        Args:
            encoder: computes what is not there; None if the table is all there is.
            table: folder of embeddings that come with the model.
            cache: folder to keep computed embeddings in; may be shared by models.
            model: fingerprint of the encoder, which tells apart what models leave in the cache.
        """
        self.encoder = encoder
        self.table = table
        self.cache = cache
        self.model = model
        self._known: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> Tensor:  # [B, S, D]
        """Embeddings, with zeros after the last token of each prompt.

        Raises:
            InvalidOptionError: a prompt has no embedding and there is no encoder.
            ModelNotFoundError, WeightsError: the encoder or a file of embeddings cannot be read.
        """
        self.prepare(prompts)
        found = [self.embedding(prompt) for prompt in prompts]
        return torch.stack([nn.functional.pad(e, (0, 0, 0, TOKENS - len(e))) for e in found])

    def prepare(self, prompts: Sequence[str]) -> None:
        """Find or compute the embeddings of all these prompts; the encoder is read once at most.

        Raises:
            InvalidOptionError, ModelNotFoundError, WeightsError: as `__call__`.
        """
        texts = [text for text in dict.fromkeys(map(clean_prompt, prompts)) if text not in self._known]
        self._known |= {text: kept for text in texts if (kept := self._stored(text)) is not None}
        if missing := [text for text in texts if text not in self._known]:
            self._known |= self._computed(missing)

    def embedding(self, prompt: str) -> Tensor:  # [n, D]
        """The embedding of one prompt, one vector for each token."""
        self.prepare([prompt])
        return self._known[clean_prompt(prompt)]

    def _stored(self, text: str) -> Tensor | None:
        if self.table is not None and (path := self.table / file_name(text)).is_file():
            return load_embedding(path, text)
        kept = self._place(text)
        return load_embedding(kept, text) if kept is not None and kept.is_file() else None

    def _computed(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if self.encoder is None:
            known = sorted(prompt_of(path) for path in self.table.glob("*.safetensors")) if self.table else []
            raise InvalidOptionError(
                f"there is no embedding of the prompt {texts[0]!r} and no text encoder to make one; prompts of this "
                f"model are {known}: add it with `mirage model embed` (a negative prompt too, or set guidance_scale 1)"
            )
        embeddings = dict(zip(texts, self.encoder.encode(texts), strict=True))
        for text, embedding in embeddings.items():
            if (kept := self._place(text)) is not None:
                save_embedding(embedding, text, kept)
        return embeddings

    def _place(self, text: str) -> Path | None:
        """File of the cache for a prompt."""
        return None if self.cache is None else self.cache / file_name(text, self.model)


def file_name(text: str, model: str = "") -> str:
    """Name of the file with the embedding of a cleaned prompt."""
    return hashlib.sha256(f"{model}\n{text}".encode()).hexdigest()[:32] + ".safetensors"


def save_embedding(embedding: Tensor, text: str, path: Path) -> None:
    """Write an embedding [n, D] as safetensors whose metadata hold the text; never seen half-written."""
    with new_folder(path) as folder:
        save_file({"embedding": embedding.contiguous()}, folder / path.name, metadata={"prompt": text})
        put_in_place(folder / path.name, path)


def load_embedding(path: Path, text: str) -> Tensor:  # [n, D]
    """Read what `save_embedding` wrote.

    Raises:
        WeightsError: damaged, of another prompt, or not a finite [n, D] with n from 1 to S.
    """
    embedding, found = _read(path)
    if found != text or embedding.ndim != 2 or not 1 <= len(embedding) <= TOKENS or not embedding.isfinite().all():
        raise WeightsError(
            f"{path} holds an embedding of shape {tuple(embedding.shape)} of the prompt {found!r}; wanted are finite "
            f"vectors for 1 to {TOKENS} tokens of {text!r}: delete the file"
        )
    return embedding


def prompt_of(path: Path) -> str:
    """The text whose embedding a file holds.

    Raises:
        WeightsError: the file is damaged.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Tensor, str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            return file.get_tensor("embedding"), str(metadata.get("prompt"))
    except SafetensorError as error:
        raise WeightsError(f"{path} is no complete file of an embedding ({error}); delete it") from error
