"""Code blocks of the documentation, and what an HTML comment right above one says about it.

<!-- before: code -->          Python that runs first and is not shown: what the page takes for granted
<!-- run -->                   a shell block whose `mirage` commands are run, not only parsed
<!-- not run: reason -->       Python that needs what a test does not have; it is compiled and its names looked up
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from repository import ROOT

PAGES = tuple(
    sorted(
        str(path.relative_to(ROOT))
        for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "mirage_env/weights/*/*.md")
        for path in ROOT.glob(pattern)
    )
)
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
COMMENTS = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)


@dataclass(frozen=True)
class Lines:
    """A piece of text and where it stands in its page."""

    line: int  # from 1
    text: str


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    language: str
    code: Lines
    comments: tuple[Lines, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.code.line}"

    @property
    def before(self) -> list[Lines]:
        """Code to run first."""
        return [Lines(c.line, textwrap.dedent(c.text)) for c in self._said("before")]

    @property
    def reason(self) -> str | None:
        """Why it is not run; None where it is."""
        return next((comment.text for comment in self._said("not run")), None)

    @property
    def wants_run(self) -> bool:
        return any(comment.text == "run" for comment in self.comments)

    def _said(self, word: str) -> Iterator[Lines]:
        for comment in self.comments:
            name, colon, text = comment.text.partition(":")
            if colon and name == word:
                skipped = len(text) - len(text.lstrip("\n"))
                yield Lines(comment.line + skipped, text[skipped:] if skipped else text.strip())


@cache
def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    text = (ROOT / page).read_text()

    def lines(begin: int, content: str) -> Lines:
        return Lines(text.count("\n", 0, begin) + 1, content)

    found = []
    for match in FENCE.finditer(text):
        above = COMMENTS.search(text[: match.start()])
        spans = COMMENT.finditer(text, above.start(), match.start()) if above else ()
        comments = tuple(lines(c.start(1), c[1].strip(" ").rstrip()) for c in spans)
        code = lines(match.start("code"), textwrap.dedent(match["code"]))
        found.append(Block(page, match["language"], code, comments))
    return found


def script_of(page: str) -> str:
    """The Python of a page that runs, as one file in which every line has the number it has in the page."""
    lines = [""] * ((ROOT / page).read_text().count("\n") + 1)
    for block in blocks_of(page):
        if block.language == "python":
            for part in [*block.before, *([block.code] if block.reason is None else [])]:
                code = part.text.splitlines()
                lines[part.line - 1 : part.line - 1 + len(code)] = code
    return "\n".join(lines) + "\n"


def inline_commands(page: str) -> list[str]:
    """What stands in code style within the text and begins with `mirage `."""
    text = FENCE.sub("", (ROOT / page).read_text())
    return [" ".join(span.split()) for span in re.findall(r"`(mirage [^`]+)`", text)]


def unresolved(code: str, known: Mapping[str, Any]) -> list[str]:
    """Names of a piece of Python that lead nowhere: modules, attributes of modules, keywords, and free names.

    Args:
        code: what is to be read, not run.
        known: names that earlier blocks of the page have defined.
    """
    tree, problems = ast.parse(code), []
    names: dict[str, Any] = dict(known)
    bound = {*known, *vars(builtins), *_bound(tree)}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    try:
                        module = importlib.import_module(alias.name)
                    except ModuleNotFoundError:
                        problems.append(f"module {alias.name}")
                        continue
                    names[alias.asname or alias.name.split(".")[0]] = module
            case ast.ImportFrom():
                for alias in node.names:
                    try:
                        names[alias.asname or alias.name] = _attribute(str(node.module), alias.name)
                    except (ModuleNotFoundError, AttributeError):
                        problems.append(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        match node:
            case ast.Name(ctx=ast.Load()) if node.id not in bound:
                problems.append(node.id)
            case ast.Attribute(value=ast.Name()) if isinstance(names.get(node.value.id), ModuleType):
                if not hasattr(names[node.value.id], node.attr):
                    problems.append(f"{node.value.id}.{node.attr}")
    return problems


def _attribute(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    try:
        return getattr(found, name)
    except AttributeError:
        return importlib.import_module(f"{module}.{name}")


def _bound(tree: ast.AST) -> Iterator[str]:
    """Names that a piece of code gives a value anywhere."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                yield node.id
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
            case ast.ExceptHandler(name=str(name)):
                yield name
