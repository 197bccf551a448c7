"""Model files: of a shipped model, a folder, or a repository on the Hugging Face hub.

What the hub has given once is read from its cache (`HF_HOME`) without the network, except that a branch such as `main`
is looked up again; `HF_HUB_OFFLINE=1` leaves that out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mirage_env.config.world import SHIPPED
from mirage_env.errors import ModelNotFoundError
from mirage_env.models.io.safetensors_files import read_json

PIPELINE = "model_index.json"
"""A folder with this file is in the diffusers layout."""
SETTINGS = (PIPELINE, "mirage.json", "config.json", "*/*.json")
"""Files that say what a model is; small."""
WEIGHT_PATTERNS = tuple(
    f"{part}/*.safetensors" for part in ("transformer", "vae", "control", "lora", "prompts", "depth", "segmentation")
)
TEXT_PATTERNS = ("text_encoder/*.safetensors", "tokenizer/*")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_FILE = re.compile(rf"({_HUB_ID.pattern})/(.+\.safetensors)")


def shipped_models() -> list[str]:
    """Names that `load_world_model` knows without a folder."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/mirage.json"))


def is_hub_id(name: str | Path) -> bool:
    """True if a name can only be a repository on the hub: `owner/name`, and no folder is called so."""
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def is_pipeline(folder: Path) -> bool:
    """True if a folder is in the diffusers layout, as on the hub."""
    return (folder / PIPELINE).is_file()


def hub_file(spec: str | Path) -> tuple[str, str] | None:
    """Repository and file of `owner/name/file.safetensors`, if it is no file on disk."""
    match = _HUB_FILE.fullmatch(spec) if isinstance(spec, str) else None
    return None if match is None or Path(spec).exists() else (match[1], match[2])


def find_model(name: str | Path, revision: str | None = None, text: bool = True) -> Path:
    """Folder of a shipped model, of a path or of a hub id, whose files are downloaded if they are not there.

    Args:
        name: shipped name, folder or hub id.
        revision: branch, tag or commit of a hub id; its `main` branch if not given.
        text: whether the text encoder is needed, which is larger than all the rest.

    Raises:
        ModelNotFoundError: neither of the three, or the hub cannot be reached and has not been before.
    """
    for folder in (SHIPPED / str(name), Path(name)):
        if (folder / "mirage.json").is_file() or is_pipeline(folder):
            return folder
    if is_hub_id(name):
        check_layout(download(str(name), revision, SETTINGS), name)
        weights = WEIGHT_PATTERNS + (TEXT_PATTERNS if text else TEXT_PATTERNS[1:])
        return download(str(name), revision, (*SETTINGS, *weights))
    if Path(name).is_dir():
        check_layout(Path(name), name)
    raise ModelNotFoundError(
        f"no world model {str(name)!r}: shipped models are {shipped_models()}; or give a folder that holds mirage.json "
        f"or {PIPELINE}, or a hub id such as 'Wan-AI/Wan2.2-TI2V-5B-Diffusers'"
    )


def check_layout(folder: Path, name: str | Path) -> None:
    """Refuse a folder of a model that is in another layout than ours or diffusers'.

    Raises:
        ModelNotFoundError: with the layout, and the name that to use instead.
    """
    if is_pipeline(folder) or (folder / "mirage.json").is_file():
        return
    config = folder / "config.json"
    said = read_json(config) if config.is_file() else {}
    if said.get("_class_name") == "WanModel" or any(folder.glob("models_t5*.pth")) or any(folder.glob("Wan2*VAE*")):
        raise ModelNotFoundError(
            f"{str(name)!r} is in the original layout of Wan; the same model in the diffusers layout, which is read "
            f"here, has a name that ends in -Diffusers, such as {str(name).rstrip('/')}-Diffusers"
        )
    if said:
        raise ModelNotFoundError(
            f"{str(name)!r} holds one network ({said.get('_class_name') or said.get('model_type')}), no whole model: "
            f"there is neither mirage.json nor {PIPELINE}; give the folder above, or it as control, depth or "
            "segmentation"
        )


def find_encoder(name: str | Path, revision: str | None = None) -> Path:
    """Folder of a model of which the text encoder is there, and perhaps nothing else.

    Raises:
        ModelNotFoundError: as `find_model`, or the model has none.
    """
    folder = download(str(name), revision, (*SETTINGS, *TEXT_PATTERNS)) if is_hub_id(name) else find_model(name)
    if not (folder / "text_encoder" / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no text_encoder/; give a model in the diffusers layout")
    return folder


def find_part(spec: str | Path, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> Path:
    """File or folder of a part that is added to a model: a path, a hub id, or `owner/name/file.safetensors` on the hub.

    Raises:
        ModelNotFoundError: there is no such thing, or the hub cannot be reached and has not been before.
    """
    path = Path(spec)
    if path.exists():
        return path
    if (found := hub_file(spec)) is not None:
        return fetch(lambda: hf_hub_download(*found), found[0], None)
    if is_hub_id(spec):
        return download(str(spec), None, patterns)
    raise ModelNotFoundError(
        f"there is no {str(spec)!r}; give a folder, a safetensors file, a hub id, or owner/name/file.safetensors"
    )


def download(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Folder with the files of a hub repository that match the patterns.

    Raises:
        ModelNotFoundError: as `fetch`.
    """
    return fetch(
        lambda: snapshot_download(repository, revision=revision, allow_patterns=list(patterns)), repository, revision
    )


def fetch(get: Callable[[], str], repository: str, revision: str | None) -> Path:
    """Run a download and explain its errors.

    Raises:
        ModelNotFoundError: no such repository or revision, no access, or the hub cannot be reached and the cache does
            not have it.
    """
    at = f"{repository!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(get())
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{at} is gated: accept its licence on the hub, then `hf auth login` ({error})"
        ) from error
    except (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError, HFValidationError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise ModelNotFoundError(
                f"the hub cannot be reached and {at} is not in its cache ({constants.HF_HUB_CACHE}); connect once and "
                f"run `hf download {repository}`, or copy the repository to a folder and give that "
                f"({str(error).splitlines()[0]})"
            ) from error
        raise ModelNotFoundError(f"the hub has no {at}, or it is private: check the name ({error})") from error
    except OSError as error:
        raise ModelNotFoundError(f"{at} could not be downloaded ({error}); try again, what is there is kept") from error
