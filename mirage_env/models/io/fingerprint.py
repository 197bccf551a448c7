"""Fingerprint of a model, which saved worlds are bound to.

Small models are hashed whole. A full-size model would take minutes at every start, so of its weight files the header,
the size, and the first and last bytes of every tensor are hashed: other weights of the same shapes, trained on or
fused, differ there in all but contrived cases. What it does not see is a change that spares the ends of every tensor,
such as a damaged byte in the middle; `hf download` checks those. The place, the revision's name and the data type at
run time do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from mirage_env.config.world import WorldModelConfig
from mirage_env.files import read_regular
from mirage_env.models.io.hub import is_pipeline
from mirage_env.models.io.safetensors_files import read_header
from mirage_env.models.wan.pipeline_parts import NAME, Sources, said_in, sources_of

COUNTED = ("mirage.json", "transformer", "vae", "scheduler", "depth", "segmentation", "refiner")
"""Parts that the latents and the memory of a world depend on; the text encoder only gives prompts their meaning."""
SAMPLE = 2048
"""Bytes of either end of a tensor."""
MOST_BYTES = 2**33
"""Of a file that is hashed whole."""
HEADER_LENGTH = 8
"""Bytes of the number in front of a safetensors header."""


def fingerprint(folder: Path, added: Mapping[str, str | Path] | None = None) -> str:
    """Name and hash of a model's configuration and weights: what a cache is bound to.

    Args:
        folder: of the model.
        added: parts of a small model that come from elsewhere, by name.

    Raises:
        WeightsError: a weight file of a full-size model is damaged.
        InvalidOptionError: `mirage.json` is damaged.
    """
    if is_pipeline(folder):
        return sampled_fingerprint(sources_of(folder))
    digest = hashlib.sha256()
    config = WorldModelConfig.load(folder)
    shared = config.parts_folder(folder)
    for root in (folder,) if shared is None else (shared, folder):
        for path in sorted([*root.rglob("*.safetensors"), *root.rglob("*.json")]):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(read_regular(path, MOST_BYTES))
    for part, place in sorted((added or {}).items()):
        digest.update(part.encode() + _hash_of(place))
    return f"{config.name}-{digest.hexdigest()[:16]}"


def sampled_fingerprint(sources: Sources) -> str:
    """Fingerprint of a full-size model, from samples as described above.

    Raises:
        WeightsError: a weight file is damaged.
        InvalidOptionError: a `mirage.json` is damaged.
    """
    digest = hashlib.sha256(json.dumps(sources.given).encode())
    for part, spec in (("depth", sources.depth), ("segmentation", sources.segmentation)):
        digest.update(b"" if spec is None else part.encode() + _hash_of(spec))
    places = [sources.folder / part for part in COUNTED]
    for place in (*places, sources.control, sources.lora):
        if place is not None and place.exists():
            digest.update(place.name.encode() if place in places else b"added")
            digest.update(sampled_hash(place))
    return f"{said_in(sources).get('name', NAME)}-{digest.hexdigest()[:16]}"


def sampled_hash(place: Path) -> bytes:
    """Hash of the settings and samples of the weights of a folder or file.

    Raises:
        WeightsError: a weight file is damaged.
    """
    digest = hashlib.sha256()
    files = sorted([*place.rglob("*.safetensors"), *place.rglob("*.json")]) if place.is_dir() else [place]
    for path in files:
        digest.update((str(path.relative_to(place)) if place.is_dir() else path.name).encode())
        if path.suffix != ".safetensors":
            digest.update(read_regular(path, MOST_BYTES))
            continue
        header = read_header(path)
        digest.update(str(path.stat().st_size).encode())
        with path.open("rb") as file:
            start = HEADER_LENGTH + int.from_bytes(file.read(HEADER_LENGTH), "little")
            for name, tensor in sorted(header.items()):
                first, last = (start + offset for offset in tensor.span)
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                for begin, end in ((first, min(first + SAMPLE, last)), (max(first, last - SAMPLE), last)):
                    file.seek(begin)
                    digest.update(file.read(end - begin))
    return digest.digest()


def _hash_of(spec: str | Path) -> bytes:
    """Hash of a model on disk, or the name of one on the hub."""
    return sampled_hash(Path(spec)) if Path(spec).exists() else str(spec).encode()
