"""Checkpoints of a run: trained weights, their averages, the optimiser's moments, and where the run was.

    checkpoint.json                    what counts: the file of the tensors and everything that is no tensor
    checkpoint-<step>.safetensors      the tensors, frozen weights left out

The JSON file is replaced in one go after the tensors are on disk. What it does not name does not exist: a kill at any
moment leaves the last checkpoint or the new one. Tensors are whole, however many processes share a weight, so a run may
go on with another number of processes.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mirage_env.errors import InvalidOptionError, WeightsError
from mirage_env.files import inside, new_file, new_folder, put_in_place, read_regular, sweep_folder

MARKER = "checkpoint.json"
MOST_BYTES = 2**20
VERSION = 1
Moments = dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        step: optimiser steps done.
        seconds: time they took, over all sessions.
        log_bytes: size of the log when the checkpoint was written.
        sums: scalars since the last row of the log, summed.
        summed: steps in these sums.
        options: of the run, to be compared with those of a session that goes on.
    """

    step: int = 0
    seconds: float = 0.0
    log_bytes: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trained:
    """Everything that training changes, by name. Loading writes into these tensors."""

    parameters: dict[str, nn.Parameter]
    averages: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimiser: torch.optim.Optimizer


def save_checkpoint(folder: Path, trained: Trained, progress: Progress, writer: bool = True) -> None:
    """Write a checkpoint. Every process calls it, since they share the weights; only the `writer` writes."""
    tensors: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        full = whole(tensor)  # all processes take part
        if writer:
            tensors[name] = full.cpu().contiguous().clone()

    for name, parameter in trained.parameters.items():
        keep(f"parameter/{name}", parameter)
        keep(f"average/{name}", trained.averages[name])
        for moment, value in sorted(trained.optimiser.state.get(parameter, {}).items()):
            keep(f"{moment}/{name}", value)
    for name, value in trained.buffers.items():
        keep(f"buffer/{name}", value)
    if not writer:
        return
    file = folder / f"checkpoint-{progress.step}.safetensors"
    # The file that counts may have this very name: it is not touched before the new one is whole.
    with new_folder(file) as unfinished:
        save_file(tensors, unfinished / file.name)
        put_in_place(unfinished / file.name, file)
    about = {"version": VERSION, "file": file.name, **dataclasses.asdict(progress)}
    with new_file(folder / MARKER) as marker:
        marker.write_text(json.dumps(about, indent=2) + "\n")
    sweep(folder, file.name)


def load_checkpoint(folder: Path, trained: Trained) -> Progress:
    """Go back to the last checkpoint of a run; without one, to the beginning.

    Raises:
        InvalidOptionError: `checkpoint.json` is damaged, or of a later version.
        WeightsError: the tensors are damaged, or those of another network.
        UnsafeFileError: `checkpoint.json` is no regular file, or larger than such a file may be.
    """
    marker = folder / MARKER
    if not marker.exists():
        sweep(folder, "")
        return Progress()
    text = read_regular(marker, MOST_BYTES)
    try:
        about = json.loads(text)  # not `read_json`: sums of a batch that overflowed are NaN
        version, name = about.pop("version"), about.pop("file")
        if version != VERSION:
            raise InvalidOptionError(f"{marker} has version {version}; this release reads {VERSION}")
        progress = Progress(**about)
        tensors = load_file(inside(folder, name))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InvalidOptionError):
            raise
        raise InvalidOptionError(f"{marker} is damaged ({error}); train in another folder") from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"the checkpoint {folder / name} cannot be read ({error})") from error
    _fill(trained, tensors, folder)
    sweep(folder, name)
    return progress


def _fill(trained: Trained, tensors: dict[str, Tensor], folder: Path) -> None:
    targets: dict[str, Tensor] = {f"parameter/{k}": v for k, v in trained.parameters.items()}
    targets |= {f"average/{k}": v for k, v in trained.averages.items()}
    targets |= {f"buffer/{k}": v for k, v in trained.buffers.items()}
    others = {k: v for k, v in tensors.items() if k not in targets}
    moments = {k: k.partition("/") for k in others if k.partition("/")[2] in trained.parameters}
    problems = [f"missing {k}" for k in targets if k not in tensors]
    problems += [f"unexpected {k}" for k in others if k not in moments]
    problems += [
        f"{k} has shape {tuple(tensors[k].shape)} instead of {tuple(v.shape)}"
        for k, v in targets.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if problems:
        raise WeightsError(
            f"the checkpoint in {folder} is of another network, or trains other parts ({'; '.join(problems[:8])}, "
            f"{len(problems)} in all); train in another folder"
        )
    with torch.no_grad():
        for key, target in targets.items():
            target.copy_(like(target, tensors[key]))
    for key, (moment, _, name) in moments.items():
        parameter, value = trained.parameters[name], others[key]
        # The optimiser counts steps on the CPU.
        state = trained.optimiser.state.setdefault(parameter, {})
        state[moment] = value.clone() if value.ndim == 0 else like(parameter, value)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that processes may share, as one of its own."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(target: Tensor, full: Tensor) -> Tensor:
    """A whole tensor, shared among the processes as `target` is."""
    full = full.to(target.device)
    if isinstance(target, DTensor):
        return distribute_tensor(full, target.device_mesh, target.placements)
    return full


def sweep(folder: Path, keep: str) -> None:
    """Remove what a killed process may have left, and older checkpoints."""
    sweep_folder(folder)
    for path in folder.glob("checkpoint-*.safetensors"):
        if path.name != keep:
            path.unlink(missing_ok=True)
