"""The linter, the formatter and the type checker have nothing to say."""

import os
import subprocess
import sys

import pytest
from repository import ROOT


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_tool_finds_nothing(tool):
    command = [sys.executable, "-m", *tool.split()]
    if tool == "mypy" and not (ROOT / ".mypy_cache").exists():
        command += ["--cache-dir", os.devnull]  # in a fresh copy one is for nobody, and writing it takes eight seconds
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
