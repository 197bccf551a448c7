"""Networks from a configuration of a stranger: never larger than the weight file beside it, and not yet filled."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules import module as hooks

from mirage_env.errors import InvalidOptionError

MOST_NUMBER = 2**17
"""Largest number in a configuration; those of published models stay below 15,000."""
FREE_MODULES, MODULES_PER_TENSOR = 256, 16
"""Modules that a network may have, as activations and containers have no weights."""
ODD_VALUES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What networks raise at values that they were not written for."""
BuiltT = TypeVar("BuiltT", bound=nn.Module)


class _TooLarge(Exception):
    """A network grows beyond its weight file."""


def built(
    build: Callable[[], BuiltT], config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], folder: Path
) -> BuiltT:
    """Build a network, and stop as soon as it has more or larger parameters than its weight file.

    Its parameters have shapes and types and no memory (PyTorch's meta device): random numbers that the file's then
    replace would take half the time of a start.

    Args:
        build: makes it of `config`.
        config: what `config.json` says.
        shapes: of the tensors in the weight file, from its header.
        folder: for the message.

    Raises:
        InvalidOptionError: the configuration describes no such network, or a larger one.
    """
    if (largest := max(_numbers(config), default=0)) > MOST_NUMBER:
        raise InvalidOptionError(f"{folder / 'config.json'} has the number {largest}; no network has any so large")
    try:
        with _bounded(len(shapes), sum(math.prod(shape) for shape in shapes.values())):
            return build()
    except _TooLarge as error:
        raise InvalidOptionError(
            f"{folder / 'config.json'} describes a network with more {error} than its weight file; copy the model again"
        ) from error
    except ODD_VALUES as error:
        raise InvalidOptionError(f"{folder / 'config.json'} describes no such network ({error!r})") from error


@contextmanager
def _bounded(tensors: int, elements: int) -> Iterator[None]:
    """Stop this thread from registering more parameters and modules than a weight file can fill."""
    thread, counted = threading.get_ident(), {"weights": 0, "tensors": 0, "modules": 0}
    most = {"weights": 2 * elements, "tensors": 2 * tensors, "modules": FREE_MODULES + MODULES_PER_TENSOR * tensors}

    def count(**more: int) -> None:
        if threading.get_ident() != thread:
            return
        for name, number in more.items():
            counted[name] += number
            if counted[name] > most[name]:
                raise _TooLarge(name)

    def on_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        count(weights=0 if parameter is None else parameter.numel(), tensors=1)
        if parameter is None or threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    def on_module(module: nn.Module, name: str, child: nn.Module) -> None:
        count(modules=1)

    with ExitStack() as stack:
        # Its type says None, its description: or another parameter.
        stack.callback(hooks.register_module_parameter_registration_hook(on_parameter).remove)  # type: ignore[arg-type]
        stack.callback(hooks.register_module_module_registration_hook(on_module).remove)
        yield


def _numbers(value: Any) -> Iterator[int]:
    match value:
        case dict():
            for part in value.values():
                yield from _numbers(part)
        case list() | tuple():
            for part in value:
                yield from _numbers(part)
        case int():
            yield abs(value)
