"""Crispness: what is measured of a model that shows nothing but fog, and of one that stands still."""

import json

import pytest
from stand_ins import walled_world_model

from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation.crispness import CrispnessConfig, run


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("crispness")
    config = CrispnessConfig(out, worlds=2, chunks=2, still_worlds=1, still_chunks=2)
    return run(config, lambda name: walled_world_model()), out


def test_every_chunk_has_its_figures(measured):
    results, out = measured
    assert len(results["chunks"]) == 2
    for chunk in results["chunks"]:
        assert chunk["sharpness_seen"] >= 0.0
        assert 0.0 <= chunk["seen"] <= 1.0
    assert len(results["standing"]) == 2
    assert json.loads((out / "crispness.json").read_text())["model"] == results["model"]


def test_the_table_says_of_which_weights_it_speaks(measured):
    results, out = measured
    text = (out / "crispness.md").read_text()
    assert results["model"] in text
    assert "Standing still for 2 chunks" in text
    assert f"of {results['things']['count']} recognised after 2 chunks" in text


@pytest.mark.parametrize("wrong", [{"worlds": 0}, {"chunks": 0}, {"still_chunks": 0}, {"first_world": -1}])
def test_counts_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidOptionError, match="at least 1"):
        CrispnessConfig(**wrong)
