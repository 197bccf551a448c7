"""Declare a dataclass of parameters on a node, and read it back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, TypeVar

from mirage_env.errors import InvalidOptionError
from ros_bridge import _ros

OptionsT = TypeVar("OptionsT")


def declare(node: Any, kind: type[OptionsT]) -> OptionsT:
    """Declare a parameter for every field, with its range and meaning, and give the values it was started with.

    Raises:
        InvalidOptionError: a value of the wrong type or out of its range.
    """
    values = {}
    for row in fields(kind):  # type: ignore[arg-type]
        try:
            declared = node.declare_parameter(row.name, row.default, _descriptor(row))
        except _ros.ParameterException as error:
            raise InvalidOptionError(f"the parameter {row.name}: {error}") from error
        values[row.name] = _value(row, declared.value)
    return kind(**values)


def current(node: Any, kind: type[OptionsT]) -> OptionsT:
    """The declared parameters as they are now.

    Raises:
        InvalidOptionError: values that do not go together.
    """
    return kind(**{row.name: _value(row, node.get_parameter(row.name).value) for row in fields(kind)})  # type: ignore[arg-type]


def changed(options: OptionsT, parameters: Iterable[Any]) -> OptionsT:
    """`options` with the values of ROS parameters; those of other names are left out.

    Raises:
        InvalidOptionError: a value of the wrong type or out of its range, or one that does not go with the others.
    """
    rows = {row.name: row for row in fields(options)}  # type: ignore[arg-type]
    return replace(options, **{p.name: _value(rows[p.name], p.value) for p in parameters if p.name in rows})  # type: ignore[type-var]


def fixed(options: object, parameters: Iterable[Any]) -> list[str]:
    """Names of the parameters among these that act only when the node is configured, and whose value would change."""
    rows = {row.name: row for row in fields(options)}  # type: ignore[arg-type]
    return [
        p.name
        for p in parameters
        if p.name in rows
        and not rows[p.name].metadata["live"]
        and _value(rows[p.name], p.value) != getattr(options, p.name)
    ]


def _value(row: Any, value: Any) -> Any:
    """A whole number is welcome where a float is asked for: people type `rate:=30`."""
    if row.type == "float" and type(value) is int:
        return float(value)
    return value


def _descriptor(row: Any) -> Any:
    meaning, low, high = row.metadata["meaning"], row.metadata["low"], row.metadata["high"]
    descriptor = _ros.ParameterDescriptor(
        description=meaning,
        additional_constraints="" if row.metadata["live"] else "takes effect when the node is configured",
        dynamic_typing=row.type == "float",
    )
    if low is not None and row.type == "int":
        descriptor.integer_range = [_ros.IntegerRange(from_value=int(low), to_value=int(high))]
    elif low is not None:
        descriptor.floating_point_range = [_ros.FloatingPointRange(from_value=float(low), to_value=float(high))]
    return descriptor
