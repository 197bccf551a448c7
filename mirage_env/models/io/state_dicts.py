"""Weights into networks and back: strictly, and never twice in memory where they are large."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_env.errors import InvalidOptionError, MissingPackageError, ModelNotFoundError, WeightsError
from mirage_env.models.io.bounded_build import built
from mirage_env.models.io.safetensors_files import PICKLED, TEXT_WEIGHTS, WEIGHTS, WeightFiles, read_json
from mirage_env.models.wan.lora import LowRank

__all__ = [
    "PICKLED",
    "TEXT_WEIGHTS",
    "WEIGHTS",
    "WeightFiles",
    "empty",
    "empty_module",
    "load_module",
    "load_published",
    "load_strictly",
    "misfits",
    "read_json",
    "read_weights",
    "save_module",
]
ModuleT = TypeVar("ModuleT", bound=ModelMixin)
BuiltT = TypeVar("BuiltT", bound=nn.Module)
MOST_NAMED = 8
"""Mismatches of weights that an error names."""
Shapes = Mapping[str, Sequence[int]]


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of one file.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: it is damaged.
    """
    return dict(WeightFiles.of(path.parent, path.name).tensors())


def misfits(own: Shapes, given: Shapes) -> list[str]:
    """List the mismatches of weights of the shapes `given` for a network of the shapes `own`."""
    problems = [f"missing {k}" for k in own if k not in given] + [f"unexpected {k}" for k in given if k not in own]
    return problems + [
        f"{k} has shape {tuple(given[k])} instead of {tuple(own[k])}"
        for k in own
        if k in given and tuple(given[k]) != tuple(own[k])
    ]


def load_strictly(module: nn.Module, weights: dict[str, Tensor], where: Path | str) -> None:
    """Copy weights into a network; every key and shape must fit, and every value be finite.

    Raises:
        WeightsError: with the list of what does not fit.
    """
    module.load_state_dict(_fitting(module, weights, where))


def _fitting(module: nn.Module, weights: dict[str, Tensor], where: Path | str) -> dict[str, Tensor]:
    """Weights that fit a network, checked."""
    problems = misfits(_shapes(module.state_dict()), _shapes(weights))
    problems += [f"{k} holds NaN or inf" for k, v in weights.items() if not _is_finite(v)]
    _refuse(problems, module, where)
    return weights


def _is_finite(values: Tensor) -> bool:
    values = values.float()
    # One NaN or inf makes the sum one, and a sum is quick; that of finite values may overflow.
    return math.isfinite(values.sum()) or bool(torch.isfinite(values).all())


def load_module(cls: type[ModuleT], folder: Path) -> ModuleT:
    """One network from its folder, strictly.

    Raises:
        ModelNotFoundError: no such folder, or no weights in it.
        WeightsError: truncated file, missing, unexpected or misshapen weights, or pickled ones only.
        InvalidOptionError: `config.json` is no JSON, or describes no such network, or a larger one than its weights.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no config.json; a world model needs the folder {folder.name!r}")
    config, files = read_json(folder / "config.json"), WeightFiles.of(folder)
    module = built(lambda: cls.from_config(config), config, files.shapes(), folder)
    weights, own = _fitting(module, dict(files.tensors()), folder), module.state_dict()
    # A copy: what safetensors gives may be a view of the file, which others may write to.
    module.load_state_dict({k: v.to(own[k].dtype, copy=True) for k, v in weights.items()}, assign=True)
    return module.eval()


def empty(build: Callable[[], BuiltT]) -> BuiltT:
    """A network whose parameters have shapes and no memory; buffers that no file holds have their values.

    Raises:
        MissingPackageError: accelerate is not installed.
    """
    try:
        from accelerate import init_empty_weights
    except ImportError as error:
        raise MissingPackageError("large models need accelerate; pip install 'mirage-env[full]'") from error
    with init_empty_weights(include_buffers=False):
        return build()


def empty_module(cls: type[ModuleT], config: dict[str, Any], folder: Path, shapes: Shapes | None = None) -> ModuleT:
    """`empty` for a network in the diffusers layout.

    Args:
        cls: the class that `config` must name, or a parent of it, if it names one.
        config: what `config.json` says.
        folder: for the message.
        shapes: of the tensors in its weight file, if it must not become larger than that.

    Raises:
        MissingPackageError: accelerate is not installed.
        InvalidOptionError: the configuration is for another class, has a value that the class refuses, or describes a
            larger network.
    """
    config = dict(config)
    names = [c.__name__ for c in cls.__mro__]
    if (named := config.pop("_class_name", cls.__name__)) not in names:
        raise InvalidOptionError(f"{folder} holds a {named}; a world model needs a {cls.__name__} there")
    if shapes is not None:
        return built(lambda: empty(lambda: cls.from_config(config)), config, shapes, folder)
    try:
        return empty(lambda: cls.from_config(config))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidOptionError(f"{folder / 'config.json'} describes no {cls.__name__}: {error}") from error


def load_published(
    cls: type[ModuleT],
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    exact: Sequence[str] = (),
    lora: Mapping[str, Tensor] | None = None,
) -> ModuleT:
    """One large network, each weight brought to its type and device as it is read: never twice in memory.

    Args:
        cls: the class that `config.json` must name, or a parent of it, if it names one.
        folder: holds `config.json` and the weights.
        device: where the weights go.
        dtype: type of floating-point weights.
        exact: names of modules and parameters, anywhere in a key, whose weights are float32 nevertheless.
        lora: low-rank updates, added before the cast: they are small against the weights.

    Raises:
        ModelNotFoundError, WeightsError, InvalidOptionError: as `load_module`; also for another class.
        MissingPackageError: accelerate is not installed.
    """
    config, files = read_json(folder / "config.json"), WeightFiles.of(folder)
    there = files.shapes()
    module = empty_module(cls, config, folder, there)
    shapes = _shapes(module.state_dict())
    _refuse(misfits(shapes, there), module, folder)
    updates = LowRank.of(lora, shapes) if lora else None
    weights, problems = {}, []
    for name, value in files.tensors():
        if not _is_finite(value):
            problems.append(f"{name} holds NaN or inf")
        value = value if updates is None else updates.added(name, value)
        kept = any(part in exact for part in name.split("."))
        wanted = (torch.float32 if kept else dtype) if value.is_floating_point() else value.dtype
        # A copy: what safetensors gives may be a view of the file, which others may write to.
        weights[name] = value.to(device, wanted, copy=True)
    _refuse(problems, module, folder)
    module.load_state_dict(weights, assign=True)
    return nn.Module.to(module, device).eval()


def save_module(module: ModelMixin, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write `config.json` and weights of that type in the diffusers layout."""
    folder.mkdir(parents=True, exist_ok=True)
    module.save_config(folder)
    weights = {k: v.detach().to(dtype) if v.is_floating_point() else v for k, v in module.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def _refuse(problems: list[str], module: nn.Module, where: Path | str) -> None:
    if problems:
        others = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise WeightsError(
            f"weights in {where} do not fit {type(module).__name__}: " + "; ".join(problems[:MOST_NAMED]) + others
        )
