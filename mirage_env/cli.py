"""The command line `mirage`: a tree of commands, of which only the one that is called is imported."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any, NoReturn, Union

import tyro
from tyro.conf import subcommand

from mirage_env.commands.os_errors import has_compiled, message_of
from mirage_env.commands.tree import MIRAGE, Command
from mirage_env.errors import InvalidOptionError, MirageError, MissingPackageError
from mirage_env.files import printable
from mirage_env.interrupts import signals_interrupt

NOISY = ("torchao", "torch.utils._pytree", "diffusers.quantizers", "diffusers.utils.import_utils")
"""Loggers that warn at import, about kernels of other machines and about each other."""
EXTRAS = {
    "accelerate": "train",
    "imageio_ffmpeg": "pictures",
    "matplotlib": "pictures",
    "peft": "train",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "stable_baselines3": "rl",
    "starlette": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
}
"""Extras by the module that they bring and that a command may miss."""
SHORTER = (
    (r"Argument helptext:.*", ""),
    (r"Error parsing (--[\w-]+):", r"\1:"),
    (r"Error parsing [\w.-]+: ", ""),
    (r"no type matching (?:\{None\})?\W?(\S+) could be instantiated from \[(.*?)\].*", r"\2 is no \1"),
    (r" in mirage [\w -]*--help", ""),
    (r"[\s.]+$", ""),
)
"""Parts of tyro's messages that do not help, and what stands in their place."""
COMPILING = ("play", "rollout", "serve", "train-policy", "view", "walk")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mirage`; returns the exit code: 0, 2 for a mistake in the options or files, 130 after Ctrl-C."""
    # Threads that spin while they wait starve the process under load; torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mirage_env").setLevel(logging.INFO)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    path = ["mirage"]
    try:
        if words == ["--version"]:
            print(f"mirage {importlib.import_module('mirage_env').__version__}")
            return 0
        words = _with_default(words)
        command = _find(words, path)
        options = _parse(words, path)
        run = _load(command.run, path)
        if words[0] in COMPILING and not has_compiled():
            print("the first start compiles, which takes about a minute", file=sys.stderr)
        try:
            with signals_interrupt():
                return run(options)
        except ModuleNotFoundError as error:
            raise _missing(error, path) from error
    except SystemExit as left:  # after a help text
        return int(left.code or 0)
    except BrokenPipeError:  # whoever read the output has left; nothing more can be said, at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MirageError, OSError) as error:
        text = str(error) if isinstance(error, MirageError) else message_of(error)
        print(f"{' '.join(path)}: {printable(text)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{' '.join(path)}: stopped", file=sys.stderr)
        return 130


def _with_default(words: list[str]) -> list[str]:
    """Name the part of a group that is meant where none is named: `mirage ros --seed 3` runs the world node."""
    group = MIRAGE.parts.get(words[0])
    named = len(words) > 1 and (words[1] in ("-h", "--help") or not words[1].startswith("-"))
    if group is None or not group.default or named:
        return words
    return [words[0], group.default, *words[1:]]


def _find(words: Sequence[str], path: list[str]) -> Command:
    """The command that is called; the words that name it are added to `path`.

    Raises:
        InvalidOptionError: there is no such command; the message names the closest one.
    """
    command = MIRAGE
    for word in words:
        if not command.parts or word.startswith("-"):
            break
        if word not in command.parts:
            close = get_close_matches(word, command.parts, n=1)
            meant = f"did you mean {close[0]}?" if close else f"give one of {', '.join(command.parts)}"
            raise InvalidOptionError(f"there is no command {word!r}; {meant}")
        path.append(word)
        command = command.parts[word]
    return command


def _parse(words: Sequence[str], path: Sequence[str]) -> Any:
    """Options of the command that is called.

    Raises:
        InvalidOptionError: with tyro's message on one line.
        SystemExit: after a help text.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                _options_type(MIRAGE, words, path),
                prog="mirage",
                description=MIRAGE.summary,
                args=list(words),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as left:
        if left.code:
            _refuse(said.getvalue(), path, left)
        raise


def _refuse(said: str, path: Sequence[str], cause: SystemExit) -> NoReturn:
    rows = [re.sub(r"[│╭╮╰╯|+]+", "", row).strip() for row in said.splitlines()[1:]]
    text = " ".join("." if set(row) <= set("─-") else row for row in rows).split("For full helptext")[0]
    text = re.sub(r"[\s.]+\.(?=\s|$)", ".", " ".join(text.split())).strip(" .")
    for pattern, better in SHORTER:
        text = re.sub(pattern, better, text)
    raise InvalidOptionError(f"{text[:1].lower()}{text[1:]}; see {' '.join(path)} --help") from cause


def _options_type(command: Command, words: Sequence[str], path: Sequence[str]) -> Any:
    """The type that tyro reads: options of a command, or the parts of a group, of which only the named is imported."""
    if not command.parts:
        found = _load(command.options, path)
        return found(words) if inspect.isfunction(found) else found
    name = words[0] if words else ""
    if name in command.parts and command.parts[name].named_in_options:
        return _options_type(command.parts[name], words, path)
    everything = any(word.startswith("--tyro-") for word in words)  # completion knows all options
    arms = []
    for each, part in command.parts.items():
        if each == name or (everything and not part.named_in_options):
            inner = _options_type(part, words[1:] if each == name else ["--tyro-"] * everything, path)
            marker = subcommand(each, description=part.summary, constructor_factory=partial(_same, inner))
        else:
            marker = subcommand(each, description=part.summary, constructor=_nothing)
        arms.append(Annotated[Any, marker])
    return Union[tuple(arms)]  # noqa: UP007  (made of a list)


def _same(kind: Any) -> Any:
    return kind


def _nothing() -> None:
    """Stand for a command that was not called."""


def _load(place: str, path: Sequence[str]) -> Any:
    """An object by `module:name`.

    Raises:
        MissingPackageError: the command needs an extra that is not installed.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise _missing(error, path) from error


def _missing(error: ModuleNotFoundError, path: Sequence[str]) -> Exception:
    extra = EXTRAS.get((error.name or "").split(".")[0])
    if extra is None:
        return error
    return MissingPackageError(f"{' '.join(path)} needs {error.name}; pip install 'mirage-env[{extra}]'")


if __name__ == "__main__":
    sys.exit(main())
