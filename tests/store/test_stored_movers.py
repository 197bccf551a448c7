"""Movers in a cache: what no mover has is refused, and a cache that has no places for them goes on without."""

import json
from dataclasses import replace

import numpy as np
import pytest
from endless_writer import CONFIG, MODEL, made_up, movers_of, same_movers

from mirage_env.errors import CacheCorruptError, InvalidOptionError
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.movers import FARTHEST, MOST_SIGHTINGS, MOST_TOKENS
from mirage_env.store import CacheWriter, load_world, save_world
from mirage_env.store.format.mover_rows import CAMERAS, COUNTS, mover_rows, movers_from
from mirage_env.store.format.root_attributes import Root

TWO, GRID = movers_of(2), (32, 32)
MANY = MOST_TOKENS + 1
LIES = {
    "no token": ("row", 0, 0.0),
    "more tokens than there are": ("row", 0, 400.0),
    "too many tokens": ("row", 0, MANY),
    "no sighting": ("row", 1, 0.0),
    "too many sightings": ("row", 1, MOST_SIGHTINGS + 1.0),
    "no cell": ("row", 2, 0.0),
    "a frame that is no number": ("row", 3, np.nan),
    "a way without end": ("row", 4, np.inf),
    "a way beyond what movers go": ("row", 4, FARTHEST + 0.1),
    "a portrait without columns": ("row", 6, 0.0),
    "a portrait of less than no row": ("row", 5, -1.0),
    "a portrait larger than a view": ("row", 5, 33.0),
    "a portrait of more cells than there are": ("row", 5, 3.0),
    "a portrait of a frame that is no number": ("row", 7, np.nan),
    "a portrait from beyond the world": ("row", COUNTS + 16 + 3, 1e12),
    "a portrait without a rotation": ("row", COUNTS + 16, 3.0),
    "a portrait of a lens of no length": ("row", COUNTS + 32, 0.0),
    "an outline of no bits": ("cell", 0, 0.5),
    "an outline of too many bits": ("cell", 3, 65536.0),
    "a cell that is no number": ("cell", 5, np.nan),
    "no rotation": ("row", COUNTS, 3.0),
    "a place that is no number": ("row", COUNTS + CAMERAS + 1, np.nan),
    "a place beyond the world": ("row", COUNTS + CAMERAS + 1, 1e12),
    "sightings out of order": ("row", COUNTS + CAMERAS, -1.0),
    "a token that is no number": ("token", 0, np.nan),
    "a footprint of nothing": ("token", 3, 0.0),
    "a feature beyond half precision": ("token", 5, 1e9),
}


def test_movers_come_back_bit_for_bit():
    rows, tokens = mover_rows(TWO, CONFIG.latent_channels)
    assert TWO[0].portrait is None
    assert TWO[1].portrait is not None
    assert same_movers(movers_from(rows, tokens, GRID), TWO)
    assert movers_from(rows[:0], tokens, GRID) == ()


@pytest.mark.parametrize("lie", LIES)
def test_what_no_mover_has_is_refused(lie):
    (where, place, value), (rows, tokens) = LIES[lie], mover_rows(TWO, CONFIG.latent_channels)
    if where == "row":
        rows[1, place] = value
    else:
        tokens[len(TWO[0].offset) + (1 if where == "token" else len(TWO[1].offset)), place] = value
    with pytest.raises(ValueError, match="mover"):
        movers_from(rows, tokens, GRID)


def test_a_cache_with_such_a_mover_is_damaged(tmp_path):
    chunk, state = made_up(2, LatentMemory.empty(CONFIG))
    track = np.full_like(state.movers[0].track, np.nan)
    state = replace(state, movers=(replace(state.movers[0], track=track),))
    save_world(tmp_path / "world.zarr", state, MODEL, [chunk])
    with pytest.raises(CacheCorruptError, match="mover"):
        load_world(tmp_path / "world.zarr", MODEL)


def test_a_cache_that_was_begun_without_places_goes_on_without_movers(tmp_path):
    none = replace(MODEL, config=replace(CONFIG, memory=replace(CONFIG.memory, movers=0)))
    chunk, state = made_up(0, LatentMemory.empty(CONFIG))
    with CacheWriter.create(tmp_path / "world.zarr", state, none, [chunk]) as writer:
        chunk, state = made_up(1, state.memory)
        writer.append(state, chunk)
    assert state.movers
    assert not (tmp_path / "world.zarr/state/movers").exists()
    assert load_world(tmp_path / "world.zarr", MODEL).movers == ()


def test_places_for_movers_are_bounded(tmp_path):
    chunk, state = made_up(1, LatentMemory.empty(CONFIG))
    save_world(tmp_path / "world.zarr", state, MODEL, [chunk])
    attributes = json.loads((tmp_path / "world.zarr/zarr.json").read_text())["attributes"]
    assert Root.from_json(attributes).movers == CONFIG.memory.movers
    with pytest.raises(InvalidOptionError, match="movers"):
        Root.from_json(attributes | {"movers": 10**6})
