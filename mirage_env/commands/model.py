"""`mirage model`: reports on checkpoints before they are loaded, and conversion of published weights."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mirage_env.commands.walk import Text

if TYPE_CHECKING:
    from mirage_env.models.io.check_model import Part, Report


@dataclass(frozen=True)
class Check:
    """Report what a model is made of, without loading its weights.

    Reads settings and the headers of weight files; of a model on the hub a few kilobytes are downloaded. The exit code
    is 2 if the model could not be loaded.
    """

    model: Annotated[str, tyro.conf.Positional]
    """A shipped model, a folder, or a hub id such as Wan-AI/Wan2.2-TI2V-5B-Diffusers."""
    revision: Text = None
    """Branch, tag or commit of a hub id."""
    control: Text = None
    """Side branch: a folder, or a hub id."""
    lora: Text = None
    """Low-rank update: a folder, a weights file, a hub id, or owner/name/file.safetensors."""
    depth: Annotated[Text, tyro.conf.arg(name="depth-model", aliases=["--depth"])] = None
    """Depth model: a folder or a hub id."""
    segmentation: Annotated[Text, tyro.conf.arg(name="segmentation-model", aliases=["--segmentation"])] = None
    """SAM 3 checkpoint: a folder or a hub id."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the weights when they are loaded."""
    quantise: Text = None
    """Kind of smaller weights for the blocks, as in load_world_model."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class Convert:
    """Convert published weights into control/ and lora/ inside a folder.

    Every key is converted, or none.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """The safetensors file."""
    out: Path
    """Folder of a model, or a new one."""
    layout: Literal["released", "spatia"] = "released"
    """Whose weights they are."""
    layers: tuple[int, ...] = ()
    """Main blocks that the side blocks belong to; spread evenly if not given."""


@dataclass(frozen=True)
class Embed:
    """Compute embeddings of prompts, for machines without the text encoder.

    `load_world_model(prompts=...)` reads the folder. Named prompts/ inside a model's folder it is found by itself. The
    empty prompt and the model's own negative prompt are always among them.
    """

    model: Annotated[str, tyro.conf.Positional]
    """A folder in the diffusers layout, or a hub id."""
    out: Path
    """Folder for the embeddings, such as MODEL/prompts."""
    prompts: tuple[str, ...] = ()
    """The prompts, each in quotes."""
    revision: Text = None
    """Branch, tag or commit of a hub id."""
    device: str = "cpu"
    """Where the encoder runs."""


def check(options: Check) -> int:
    """`mirage model check`; 2 if the model could not be loaded."""
    text, ok = run_check(options)
    print(text)
    return 0 if ok else 2


def convert(options: Convert) -> int:
    """`mirage model convert`."""
    print("wrote " + ", ".join(map(str, run_convert(options))))
    return 0


def embed(options: Embed) -> int:
    """`mirage model embed`."""
    files = run_embed(options)
    print(f"wrote {len(files)} embeddings to {files[0].parent}")
    return 0


def run_check(options: Check) -> tuple[str, bool]:
    """The report as a text, and whether the model could be loaded.

    Raises:
        ModelNotFoundError: there is no such model.
        InvalidOptionError: an unknown kind of quantisation.
    """
    import torch

    from mirage_env.models.io.check_model import Wanted, check_model
    from mirage_env.models.quantisation import check_kind

    check_kind(options.quantise)
    given = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("json", "dtype")}
    report = check_model(Wanted(**given, dtype=getattr(torch, options.dtype)))
    if options.json:
        return json.dumps(dataclasses.asdict(report) | {"ok": report.ok}, indent=2), report.ok
    return report_text(report, options.dtype), report.ok


def run_convert(options: Convert) -> list[Path]:
    """Convert; returns the folders that were written.

    Raises:
        ModelNotFoundError, WeightsError, InvalidOptionError: as `published_checkpoints.convert`.
    """
    from mirage_env.models.io import published_checkpoints

    return published_checkpoints.convert(options.source, options.out, options.layout, options.layers or None)


def run_embed(options: Embed) -> list[Path]:
    """Compute embeddings; returns the files.

    Raises:
        ModelNotFoundError, WeightsError: there is no such model, or its text encoder cannot be read.
        InvalidOptionError: the model's `mirage.json` is damaged.
    """
    import torch

    from mirage_env.models.io.hub import find_encoder
    from mirage_env.models.offload import native_dtype
    from mirage_env.models.wan.pipeline_parts import negative_prompts
    from mirage_env.models.wan.text_encoder import UMT5, clean_prompt, file_name, save_embedding

    folder, device = find_encoder(options.model, options.revision), torch.device(options.device)
    encoder = UMT5(folder / "text_encoder", folder / "tokenizer", device, native_dtype(device))
    prompts = list(dict.fromkeys(map(clean_prompt, ("", *negative_prompts(folder), *options.prompts))))
    for prompt, embedding in zip(prompts, encoder.encode(prompts), strict=True):
        save_embedding(embedding, prompt, options.out / file_name(prompt))
    return [options.out / file_name(prompt) for prompt in prompts]


def report_text(report: Report, dtype: str) -> str:
    """A report for people."""
    head = ("part", "parameters", "in files", dtype, "class", "from")
    rows = [head, *(_row(part) for part in report.parts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    lines += [f"{part.name}: {part.note}" for part in report.parts if part.note]
    lines += [f"{name.replace('_', ' ')}: {_value(value)}" for name, value in report.settings.items()]
    if report.device_bytes:
        needs = ", ".join(f"{_size(count)} with offload={name!r}" for name, count in report.device_bytes.items())
        lines.append(f"device memory, estimated: {needs}")
    problems = [f"{part.name}: {problem}" for part in report.parts for problem in part.problems]
    problems += report.problems
    if not problems:
        return "\n".join([*lines, f"{report.model} can be loaded"])
    return "\n".join([*lines, f"{report.model} cannot be loaded:", *(f"  {problem}" for problem in problems)])


def _row(part: Part) -> tuple[str, ...]:
    return (
        part.name,
        f"{part.parameters / 1e6:,.1f} M" if part.parameters else "-",
        _size(part.file_bytes),
        _size(part.run_bytes),
        part.network,
        part.place,
    )


def _size(count: int) -> str:
    if not count:
        return "-"
    return f"{count / 2**30:.2f} GiB" if count >= 2**29 else f"{count / 2**20:.2f} MiB"


def _value(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)
