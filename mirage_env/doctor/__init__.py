"""`mirage doctor`: checks of this machine and of the installation, one finding per line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mirage_env.doctor import installation, machine
from mirage_env.doctor.finding import Finding

__all__ = ["CHECKS", "Doctor", "Finding", "examine"]

CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    machine.python,
    machine.torch,
    machine.waiting,
    installation.libraries,
    installation.kernels,
    installation.weights,
    machine.memory,
    machine.disk,
    machine.gpu,
    installation.video,
    machine.browser,
    installation.ros,
    installation.extras,
)
"""In the order of the report."""


@dataclass(frozen=True)
class Doctor:
    """Check what Mirage needs on this machine, and say what to do where something is missing.

    Ends with 1 where something keeps Mirage from working, else with 0.
    """

    details: bool = False
    """Print every finding on a line of its own, also where nothing is missing."""
    json: bool = False
    """Print the findings as JSON."""
    walk: bool = False
    """Also load the shipped model, every weight checked, and walk with it."""


def _is_extra(finding: Finding) -> bool:
    return finding.what.startswith("[")


def _summary(found: Sequence[Finding]) -> Iterator[str]:
    """One line for the extras that are missing, and one for all that is there."""
    missing = [finding.what.strip("[]") for finding in found if _is_extra(finding) and finding.level != "ok"]
    if missing:
        advice = "mirage doctor --details says what each gives"
        yield str(Finding("note", "extras", f"not installed: {', '.join(missing)}", advice))
    there = [finding.what for finding in found if finding.level == "ok"]
    if there:
        yield str(Finding("ok", "there", ", ".join(there)))


def examine(options: Doctor, show: Callable[[str], object]) -> int:
    """Hand the report to `show`, a line as soon as it is known; returns the exit code, 1 if there is a problem."""
    found: list[Finding] = []
    for check in [*CHECKS, *([installation.walk] if options.walk else [])]:
        for finding in check():
            found.append(finding)
            if not options.json and (options.details or (finding.level != "ok" and not _is_extra(finding))):
                show(str(finding))
    problems, notes = (sum(finding.level == level for finding in found) for level in ("problem", "note"))
    if options.json:
        show(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    else:
        if not options.details:
            for line in _summary(found):
                show(line)
        show(f"{problems or 'no'} problem{'s' * (problems != 1)}, {notes} note{'s' * (notes != 1)}")
    return min(problems, 1)
