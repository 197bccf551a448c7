"""Headers of weight files without the weights: from a disk, or a few kilobytes of each file from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import EntryNotFoundError

from mirage_env.config.world import SHIPPED
from mirage_env.errors import ModelNotFoundError
from mirage_env.models.io.hub import PIPELINE, download, hub_file, is_hub_id
from mirage_env.models.io.safetensors_files import (
    INDEX,
    WEIGHTS,
    Header,
    WeightFiles,
    check_index,
    checked_index,
    header_of,
    read_header,
    read_json,
)

READ = (PIPELINE, "*mirage.json", "*config.json", f"*{INDEX}")
"""Files that say what a model is and where its weights are. (`*` matches folders too.) The tokenizer's words are not
among them: they take megabytes."""


@dataclass(frozen=True)
class Place:
    """A model or a part of one: a folder, of which only the settings need be there if it is on the hub."""

    folder: Path
    repository: str | None = None
    """Hub id, for what the folder does not hold."""
    revision: str | None = None
    """Commit of the settings."""
    file: str | None = None
    """The one weight file that is meant, in the folder or the repository."""

    def __str__(self) -> str:
        """Location for people."""
        root = str(self.folder) if self.repository is None else f"{self.repository} at {(self.revision or '')[:12]}"
        return root if self.file is None else f"{root}: {self.file}"

    def headers(self, part: str = "", name: str = WEIGHTS) -> Mapping[str, Header]:
        """Headers of the weight files of a part, by file.

        Raises:
            ModelNotFoundError: a file is missing, or the hub cannot be reached.
            WeightsError: a file is damaged, is not what its index says, or there are pickled weights only.
        """
        if self.file is not None:
            return {self.file: self._header(self.file)}
        folder = self.folder / part
        index = folder / f"{name}{INDEX}"
        if self.repository is None or (folder / name).is_file():
            return WeightFiles.of(folder, name).headers()
        weight_map = checked_index(read_json(index), index) if index.is_file() else None
        files = sorted(set(weight_map.values())) if weight_map is not None else [name]
        headers = {file: self._header(f"{part}/{file}" if part else file) for file in files}
        check_index(weight_map, headers, folder)
        return headers

    def _header(self, path: str) -> Header:
        if (self.folder / path).is_file():
            return read_header(self.folder / path)
        if self.repository is None:
            raise ModelNotFoundError(f"the weight file {self.folder / path} is missing; copy or download it again")
        repository = self.repository
        try:
            return header_of(
                lambda: HfApi().parse_safetensors_file_metadata(repository, path, revision=self.revision),
                f"{path} of {repository}",
            )
        except EntryNotFoundError as error:
            raise ModelNotFoundError(f"{self.repository} has no {path}; only safetensors are read") from error
        except OSError as error:
            raise ModelNotFoundError(f"{path} of {self.repository} could not be read from the hub ({error})") from error


def place_of(spec: str | Path, revision: str | None = None) -> Place:
    """Locate a model or part, and download its settings if it is on the hub.

    Raises:
        ModelNotFoundError: there is no such thing, or the hub cannot be reached and has not been before.
    """
    path = Path(spec)
    if path.is_file():
        return Place(path.parent, file=path.name)
    if (SHIPPED / str(spec) / "mirage.json").is_file():
        return Place(SHIPPED / str(spec))
    if path.is_dir():
        return Place(path)
    if (found := hub_file(spec)) is not None:
        folder = download(found[0], revision, READ)
        return Place(folder, found[0], folder.name, found[1])
    if is_hub_id(spec):
        folder = download(str(spec), revision, READ)
        return Place(folder, str(spec), folder.name)
    raise ModelNotFoundError(
        f"there is no {str(spec)!r}; give a shipped model, a folder with mirage.json or {PIPELINE}, or a hub id such "
        f"as 'Wan-AI/Wan2.2-TI2V-5B-Diffusers' (what was downloaded before is in {constants.HF_HUB_CACHE})"
    )
