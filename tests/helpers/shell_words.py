"""What commands a piece of shell gives, found by running it in bash with recorders in the place of all programs."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

PROGRAMS = (
    "accelerate",
    "colcon",
    "git",
    "mirage",
    "mkdocs",
    "pip",
    "pytest",
    "python",
    "python3",
    "ros2",
    "rosdep",
    "sudo",
    "torchrun",
    "uv",
)
"""What the documentation may call; anything else is an error, so that no command goes unchecked."""
END = "\x1e"
RECORDER = """#!/bin/bash
{{ printf '%s\\0' "${{0##*/}}" "$@"; printf '{end}'; }} >> {log}
if [ "${{2-}}" = venv ]; then
    folder="${{@: -1}}"; mkdir -p "$folder/bin"
    for program in python pip mirage; do ln -sf {shims}/$program "$folder/bin/$program"; done
fi
"""
PRELUDE = "set -euo pipefail; .() { :; }; source() { :; }; "
"""Environments that are sourced belong to nobody here."""


def commands_of(script: str, folder: Path) -> list[list[str]]:
    """Words of every command of a bash script, as the programs would get them, loops and variables resolved.

    Args:
        script: it runs in a folder of its own; `cd`, `mkdir` and the like are real.
        folder: an empty folder for all of it.

    Raises:
        AssertionError: bash did not come to the end, for example at a program that is not among `PROGRAMS`.
    """
    shims, log, place = folder / "shims", folder / "log", folder / "there" / "repository"
    shims.mkdir(parents=True)
    place.mkdir(parents=True)
    log.touch()
    recorder = RECORDER.format(end=END, log=shlex.quote(str(log)), shims=shlex.quote(str(shims)))
    for program in PROGRAMS:
        (shims / program).write_text(recorder)
        (shims / program).chmod(0o755)
    for tool in ("mkdir", "ln"):
        (shims / tool).symlink_to(f"/bin/{tool}")
    done = subprocess.run(
        ["/bin/bash", "-c", PRELUDE + "\n" + script],
        cwd=place,
        env={"PATH": str(shims), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return [record.split("\0")[:-1] for record in log.read_text().split(END)[:-1]]
