"""Committed figures speak about the weights that are shipped: the identity in every result is that of the model."""

import json
import re
from collections.abc import Iterator
from functools import cache

import pytest
from repository import ROOT, repository_files

from mirage_env import load_world_model

IDENTITY = re.compile(r"\b(rooms(?:-[a-z]+)?)-([0-9a-f]{16})\b")
PLACES = {"rooms": "rooms", "rooms-paper": str(ROOT / "benchmarks/evaluation/rooms-paper")}
"""Weights by the name in front of the identity."""
MEASURED = (
    "benchmarks/preview_baseline.json",
    "benchmarks/step_baseline.json",
    "docs/evaluation/parts.json",
    "docs/evaluation/results.json",
    "docs/evaluation/crispness.json",
)
"""Results that depend on the weights; each says on which."""
EARLIER = {"docs/point_nav.json": "docs/training_policies.md"}
"""Results of earlier weights, by the page that shows them and says so: training agents again takes hours."""
SPEAKING = tuple(
    path
    for path in repository_files()
    if path not in EARLIER
    and path.endswith((".md", ".json"))
    and path.startswith(("README", "docs/", "benchmarks/", "mirage_env/weights/"))
    and IDENTITY.search((ROOT / path).read_text())
)


@cache
def identity(name: str) -> str:
    return load_world_model(PLACES[name]).identity


def stale(text: str) -> Iterator[str]:
    """Identities in a text that are not those of the weights of that name."""
    for found in dict.fromkeys(match[0] for match in IDENTITY.finditer(text)):
        name = IDENTITY.fullmatch(found)[1]
        if found != identity(name):
            yield f"{found}; the weights are {identity(name)}: measure again"


@pytest.mark.parametrize("path", SPEAKING)
def test_figures_are_of_the_weights_that_are_here(path):
    assert not list(stale((ROOT / path).read_text()))


@pytest.mark.parametrize("path", MEASURED)
def test_result_says_which_weights_were_measured(path):
    assert IDENTITY.search(json.dumps(json.loads((ROOT / path).read_text())))


def test_figures_of_other_weights_are_seen():
    assert list(stale("of rooms-0123456789abcdef"))
    assert not list(stale(f"of {identity('rooms')}"))


@pytest.mark.parametrize(("path", "page"), EARLIER.items())
def test_figures_of_earlier_weights_are_said_to_be(path, page):
    assert IDENTITY.search((ROOT / path).read_text())
    assert "earlier weights" in (ROOT / page).read_text()
