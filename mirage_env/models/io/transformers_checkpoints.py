"""Checkpoints of the transformers library: found on the hub or on disk, loaded strictly, never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.models.io.hub import download, is_hub_id
from mirage_env.models.io.state_dicts import TEXT_WEIGHTS, WeightFiles, read_json

FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
"""Files that are downloaded of a repository: settings, weights, tokenizer."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""One of these a tokenizer has; without any, the library makes one that knows no words."""
ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def find_checkpoint(model: str | Path, revision: str = "") -> Path:
    """Folder of a checkpoint, downloaded where it is not on disk.

    Args:
        model: folder or hub id.
        revision: branch, tag or commit of a hub id; empty: the newest.

    Raises:
        ModelNotFoundError: there is no such folder or repository, or the hub cannot be reached.
    """
    if Path(model).is_dir():
        return Path(model)
    if is_hub_id(model):
        return download(str(model), revision or None, FILES)
    raise ModelNotFoundError(f"there is no folder {str(model)!r}, and no hub id looks so; give a folder or owner/name")


def optional_json(path: Path) -> dict[str, Any]:
    """A configuration file, or nothing where there is none.

    Raises:
        InvalidOptionError: it is no JSON object.
    """
    return read_json(path) if path.is_file() else {}


def load_pretrained(cls: type[ModelT], folder: Path, device: torch.device, dtype: torch.dtype) -> ModelT:
    """A network of the transformers library with every weight from its folder, ready for inference.

    Raises:
        ModelNotFoundError: no weights in the folder.
        InvalidOptionError: its `config.json` does not describe such a network.
        WeightsError: pickled weights only, a truncated file, or weights that are missing, unexpected, misshapen or not
            finite.
    """
    files = WeightFiles.of(folder, TEXT_WEIGHTS)
    try:
        model, info = cls.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported below, with the rest
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise WeightsError(f"{files.paths[0]} is damaged ({error}); copy or download it again") from error
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidOptionError(f"{folder / 'config.json'} describes no {cls.__name__}: {error}") from error
    problems = [f"missing {key}" for key in sorted(info["missing_keys"])]
    problems += [f"unexpected {key}" for key in sorted(info["unexpected_keys"])]
    problems += [f"{k} has shape {tuple(a)} instead of {tuple(b)}" for k, a, b in sorted(info["mismatched_keys"])]
    problems += [str(message) for message in info["error_msgs"]]
    problems += [f"{k} holds NaN or inf" for k, v in model.named_parameters() if not torch.isfinite(v).all()]
    if problems:
        raise WeightsError(f"weights in {folder} do not fit {cls.__name__}: " + "; ".join(problems))
    nn.Module.to(model, device)
    return model.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ModelNotFoundError: there is none in the folder, or it cannot be read.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelNotFoundError(f"{folder} holds no tokenizer ({', '.join(VOCABULARIES)}); copy or download it again")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelNotFoundError(f"{folder} holds no tokenizer that can be read ({error}); copy it again") from error
