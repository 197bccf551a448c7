"""Weight files on disk: safetensors in one file or in shards, and their headers.

A part of a model is a folder with `config.json` and `diffusion_pytorch_model.safetensors`, or several such files and an
index (`diffusion_pytorch_model.safetensors.index.json`) that says which tensor lies where, as on the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import parse_local_safetensors_file_metadata
from huggingface_hub.errors import SafetensorsParsingError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mirage_env.errors import ModelNotFoundError, WeightsError
from mirage_env.files import read_json_object

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""Name of diffusers' weight files; transformers' are called `TEXT_WEIGHTS`."""
TEXT_WEIGHTS = "model.safetensors"
LENGTH_BYTES = 8
"""Bytes of the number in front of a header."""
MOST_NUMBER = 2**62
"""Of a shape or a place in a file."""
ODD_HEADERS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What huggingface_hub raises at headers that are JSON of another kind."""
INDEX = ".index.json"
"""Suffix of the index of a sharded part, after the name that one file would have."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        ModelNotFoundError: there is no such file.
        InvalidOptionError: it is no JSON object.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} holds no {path.name}; copy or download the model again")
    return read_json_object(path, advice="copy the model again")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, as the file's header describes it."""

    dtype: str
    """As safetensors writes it: F32, BF16 and so on."""
    shape: tuple[int, ...]
    span: tuple[int, int]
    """First byte, and the one after the last, counted from the end of the header."""


Header = Mapping[str, Stored]


def header_of(parse: Callable[[], Any], name: str) -> Header:
    """A header that huggingface_hub reads from a disk or from the hub: its numbers are checked here.

    Args:
        parse: reads it.
        name: of the file, for the message.

    Raises:
        WeightsError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        tensors = parse().tensors
        header = {k: Stored(t.dtype, tuple(t.shape), tuple(t.data_offsets)) for k, t in tensors.items()}
        if odd := [name for name, tensor in header.items() if not _is_sound(tensor)]:
            raise ValueError(f"the type, shape or place of {odd[0][:99]!r} is that of no tensor")
    except (SafetensorsParsingError, *ODD_HEADERS) as error:
        raise WeightsError(f"{name} is no complete safetensors file ({error}); copy or download it again") from error
    return header


def _is_sound(tensor: Stored) -> bool:
    numbers = (*tensor.shape, *tensor.span)
    return (
        isinstance(tensor.dtype, str)
        and all(type(n) is int and 0 <= n < MOST_NUMBER for n in numbers)
        and len(tensor.span) == 2
        and tensor.span[0] <= tensor.span[1]
    )


def read_header(path: Path) -> Header:
    """Names, types, shapes and places of the tensors of a file, without the tensors.

    Raises:
        WeightsError: the file is damaged, or shorter or longer than its header says.
    """
    header = header_of(lambda: parse_local_safetensors_file_metadata(path), str(path))
    with path.open("rb") as file:
        begin = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
    expected = begin + max((tensor.span[1] for tensor in header.values()), default=0)
    if (size := path.stat().st_size) != expected:
        raise WeightsError(
            f"{path} is no complete safetensors file (it has {size} bytes, its header says {expected}); copy or "
            "download it again"
        )
    return header


@dataclass(frozen=True)
class WeightFiles:
    """Tensors of a part on disk, and their files."""

    folder: Path
    index: Mapping[str, str] | None
    """Tensor to file, as the index of a sharded part says; None for a part in one file."""
    names: tuple[str, ...]
    """The files, in order."""

    @staticmethod
    def of(folder: Path, name: str = WEIGHTS) -> WeightFiles:
        """The weight files of a part.

        Raises:
            ModelNotFoundError: there are none, or one that the index names is not there.
            WeightsError: there are only pickled ones, or the index is damaged or points outside the folder.
        """
        index_path = folder / f"{name}{INDEX}"
        if (folder / name).is_file():
            return WeightFiles(folder, None, (name,))
        if not index_path.is_file():
            if pickled := sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED):
                raise WeightsError(
                    f"{folder} holds pickled weights only ({', '.join(pickled)}), whose loading runs code from the "
                    "file; use a revision with safetensors, or convert them where you trust them"
                )
            raise ModelNotFoundError(f"the weight file {folder / name} is missing; install the model again")
        index = checked_index(read_json(index_path), index_path)
        files = tuple(sorted(set(index.values())))
        if missing := [f for f in files if not (folder / f).is_file()]:
            raise ModelNotFoundError(f"{index_path} names {missing}, which are missing; copy or download them again")
        return WeightFiles(folder, index, files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(self.folder / name for name in self.names)

    def headers(self) -> dict[str, Header]:
        """Header of every file.

        Raises:
            WeightsError: a file is damaged, or holds other tensors than the index says.
        """
        headers = {name: read_header(self.folder / name) for name in self.names}
        check_index(self.index, headers, self.folder)
        return headers

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor.

        Raises:
            WeightsError: as `headers`.
        """
        return {k: t.shape for header in self.headers().values() for k, t in header.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors one by one, so that a large part is never there twice.

        Raises:
            WeightsError: a file is damaged.
        """
        for path in self.paths:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - a safetensors file is no dict
                        yield name, file.get_tensor(name)
            except SafetensorError as error:
                raise WeightsError(
                    f"{path} is no complete safetensors file ({error}); copy or download it again"
                ) from error


def checked_index(values: Mapping[str, Any], where: Path | str) -> dict[str, str]:
    """The map from tensors to files of an index.

    Raises:
        WeightsError: it has none, or names files outside its folder.
    """
    index = values.get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(v, str) for v in index.values()):
        raise WeightsError(f"{where} has no weight_map from tensors to files; copy or download it again")
    if outside := sorted({v for v in index.values() if Path(v).name != v or not v.endswith(".safetensors")}):
        raise WeightsError(f"{where} names {outside}; only safetensors files beside it are read")
    return index


def check_index(index: Mapping[str, str] | None, headers: Mapping[str, Header], where: Path | str) -> None:
    """Compare an index with the files.

    Raises:
        WeightsError: a file holds other tensors than the index says.
    """
    if index is None:
        return
    there = {tensor: name for name, header in headers.items() for tensor in header}
    wrong = [f"{k} is not in {v}" for k, v in index.items() if there.get(k) != v]
    wrong += [f"{k} in {v} is not in the index" for k, v in there.items() if k not in index]
    if wrong:
        raise WeightsError(f"weights in {where} are not those of their index: " + "; ".join(wrong))
