"""Whether commands of the documentation are ones that the programs take: the real parsers read them, nothing is run."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import inspect
import io
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import pytest
import tyro
from packaging.requirements import Requirement
from repository import ROOT

from mirage_env.cli import main
from mirage_env.commands.tree import MIRAGE
from ros_bridge.parameters.policy_parameters import PolicyParameters
from ros_bridge.parameters.world_parameters import WorldParameters

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NODES = {"world_node": WorldParameters, "policy_node": PolicyParameters}
FREE = ("accelerate", "colcon", "git", "rosdep", "sudo", "torchrun")
"""Programs of others, whose options are not looked at."""


class Parsed(Exception):
    """The options have been read; what would follow does not."""

    def __init__(self, kind: Any, options: Any) -> None:
        super().__init__(kind, options)
        self.kind = kind


@contextmanager
def stopping_after_options() -> Iterator[None]:
    """Whatever reads its options raises `Parsed` in the place of going on."""
    cli, parse_args = tyro.cli, argparse.ArgumentParser.parse_args

    def stop(kind: Any, *arguments: Any, **keywords: Any) -> Any:
        read = kind
        if inspect.isfunction(kind):  # tyro would call it

            @functools.wraps(kind)
            def read(*given: Any, **options: Any) -> Any:
                return options

        raise Parsed(kind, cli(read, *arguments, **keywords))

    def stop_argparse(parser: argparse.ArgumentParser, *arguments: Any) -> Any:
        raise Parsed(parser, parse_args(parser, *arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", stop)
        patch.setattr(argparse.ArgumentParser, "parse_args", stop_argparse)
        yield


def check(words: Sequence[str]) -> None:
    """Raise if a command is none.

    Raises:
        AssertionError: with what is wrong.
    """
    program, *arguments = words
    if program not in FREE:
        CHECKS[program](arguments)
    elif "mirage_env.cli" in arguments:
        _mirage(arguments[arguments.index("mirage_env.cli") + 1 :])


def options_of(words: Sequence[str]) -> frozenset[str]:
    """Options of a `mirage` command, `--` included, as its help lists them."""
    known, command = [], MIRAGE
    for word in words:
        if word not in command.parts:
            break
        known, command = [*known, word], command.parts[word]
    known += [command.default] * bool(command.default)
    model = ["--model=a"] * (known[:1] == ["train"] and "--model" in words)
    return _helped(*known, *model)


@functools.cache
def _helped(*words: str) -> frozenset[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([*words, "--help"]) == 0, f"mirage {shlex.join(words)}"
    hidden = set() if words else {"--version", "--tyro-write-completion"}
    return frozenset(re.findall(r"--[a-z][a-z0-9-]*", said.getvalue())) | hidden


def _mirage(arguments: Sequence[str]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            with stopping_after_options():
                code = main(arguments)
        except Parsed:
            return
    assert code == 0, f"mirage {shlex.join(arguments)}: its options are refused ({said.getvalue().strip()})"


def _python(arguments: Sequence[str]) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), f"no module {arguments[1]}"
        return
    script = ROOT / arguments[0]
    assert script.is_file(), f"no script {arguments[0]}"
    assert "__main__" in script.read_text(), f"{arguments[0]} is no script"
    if not any(call in script.read_text() for call in ("tyro.cli(", ".parse_args(")):
        assert not arguments[1:], f"{arguments[0]} takes no options"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *arguments[1:]])
        patch.syspath_prepend(str(script.parent))
        _parses(shlex.join(["python", *arguments]), lambda: runpy.run_path(str(script), run_name="__main__"))


def _parses(what: str, run: Callable[[], Any]) -> None:
    try:
        with stopping_after_options():
            run()
    except Parsed:
        return
    except SystemExit as left:
        raise AssertionError(f"{what}: its options are refused") from left
    raise AssertionError(f"{what}: it did not come to its options")


def _pip(arguments: Sequence[str]) -> None:
    assert arguments[0] == "install"
    words = list(arguments[1:])
    while words:
        word = words.pop(0)
        if word == "-c":
            assert (ROOT / words.pop(0)).is_file()
        elif word not in ("-e", "--no-deps"):
            assert not word.startswith("-"), f"pip {word}: not known to this test"
            path, _, extras = word.partition("[")
            if path in (".", PROJECT["name"], "src/mirage_env"):
                unknown = set(filter(None, extras.removesuffix("]").split(","))) - {*PROJECT["optional-dependencies"]}
                assert not unknown, f"{word}: there are no extras {unknown}"
            else:
                Requirement(word)


def _uv(arguments: Sequence[str]) -> None:
    assert arguments[:2] == ["pip", "install"], arguments
    _pip([word for word in arguments[1:] if word not in ("--torch-backend=cpu", "--torch-backend=auto")])


def _pytest(arguments: Sequence[str]) -> None:
    paths = [word for word in arguments if not word.startswith("-")]
    assert all((ROOT / path.partition("::")[0]).exists() for path in paths), paths


def _mkdocs(arguments: Sequence[str]) -> None:
    assert arguments[0] in ("build", "serve"), arguments
    assert set(arguments[1:]) <= {"--strict"}, arguments


def _ros2(arguments: Sequence[str]) -> None:
    verb, package, name, *rest = arguments
    assert (verb, package) in (("run", "mirage_env"), ("launch", "mirage_env")), arguments
    if verb == "launch":
        source = (ROOT / "ros_bridge/launch" / name).read_text()
        for word in rest:
            assert f'"{word.partition(":=")[0]}": (' in source, f"{name} has no argument {word}"
        return
    known = {field.name for field in fields(NODES[name])}
    given = [rest[i + 1].partition(":=")[0] for i, word in enumerate(rest) if word == "-p"]
    assert set(given) <= known, f"{name} has no parameters {set(given) - known}"


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "mirage": _mirage,
    "mkdocs": _mkdocs,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "python3": _python,
    "ros2": _ros2,
    "uv": _uv,
}
