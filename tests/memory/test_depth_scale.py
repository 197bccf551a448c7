import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import Breathing, path, picture, walled_world_model

from mirage_env.config.world import AlignmentConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.memory.depth_scale import align_depth

CONFIG = AlignmentConfig(enabled=True)
SHAPE = (3, 6, 8)


def scene(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1.0, 9.0, SHAPE).astype(np.float32)


@settings(max_examples=40)
@given(scale=st.floats(0.55, 1.8), wrong=st.floats(0.0, 0.24), seed=st.integers(0, 2**31))
def test_a_scale_is_found_whatever_a_quarter_of_the_cells_says(scale, wrong, seed):
    known, rng = scene(seed), np.random.default_rng(seed)
    depth = (known / scale).astype(np.float32)
    lies = rng.random(SHAPE) < wrong
    depth[lies] *= rng.uniform(2.5, 20.0, int(lies.sum()))
    fit = align_depth(depth, known, np.ones(SHAPE, bool), CONFIG)
    assert not fit.refused
    assert fit.scale == pytest.approx(scale, rel=1e-3)
    assert fit.agreement >= 1.0 - lies.mean() - 1e-9
    assert fit.cells == known.size


@given(seed=st.integers(0, 2**31))
def test_views_that_say_something_else_are_refused(seed):
    fit = align_depth(scene(seed), scene(seed + 1), np.ones(SHAPE, bool), CONFIG)
    assert fit.refused
    assert fit.scale == 1.0
    assert fit.agreement < CONFIG.min_agreement


@pytest.mark.parametrize("scale", [2.5, 0.3])
def test_a_scale_beyond_reason_is_refused(scale):
    assert align_depth(scene(0) / np.float32(scale), scene(0), np.ones(SHAPE, bool), CONFIG).refused


def test_too_few_shared_cells_say_nothing():
    known, usable = scene(0), np.ones(SHAPE, bool)
    known.ravel()[CONFIG.min_cells - 1 :] = 0.0
    fit = align_depth(scene(1), known, usable, CONFIG)
    assert (fit.scale, fit.refused, fit.cells) == (1.0, False, CONFIG.min_cells - 1)


def test_cells_that_do_not_count_are_left_out():
    known, depth = scene(0), scene(0) * np.float32(1.25)
    usable = np.random.default_rng(0).random(SHAPE) < 0.6
    depth[~usable] = np.inf
    fit = align_depth(depth, known, usable, CONFIG)
    assert fit.cells == usable.sum()
    assert fit.scale == pytest.approx(0.8, rel=1e-5)


def still(state):
    return [state.camera] * 4


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_world_model_brings_depth_to_the_scale_of_its_memory(factor):
    model = walled_world_model(depth=Breathing(factor))
    model = replace(model, config=replace(model.config, alignment=replace(CONFIG, min_cells=8)))
    first, state = model.start(picture())
    chunk, _ = model.step(state, still(state))
    assert not chunk.alignment.refused
    assert chunk.alignment.scale == pytest.approx(1.0 / factor, rel=1e-3)
    assert torch.allclose(chunk.depth, first.depth.expand_as(chunk.depth), rtol=1e-3)


def test_what_the_scale_moves_beyond_far_is_not_written():
    model = walled_world_model(depth=Breathing(0.7))
    config = replace(model.config, far=2.2, alignment=replace(CONFIG, min_cells=4))
    model = replace(model, config=config)
    first, state = model.start(picture())
    assert 0.0 < first.keep.float().mean() < 1.0
    chunk, after = model.step(state, still(state))
    assert chunk.alignment.scale == pytest.approx(1.0 / 0.7, rel=1e-3)
    assert torch.equal(chunk.keep, first.keep.expand_as(chunk.keep))
    z = np.concatenate([b.positions() @ state.camera.T_cam_world[2, :3] for b in after.memory.blocks])
    assert z.max() < 2.2


@settings(max_examples=20)
@given(wrong=st.floats(0.2, 0.36), seed=st.integers(0, 2**31))
def test_cells_wrong_in_one_direction_move_the_scale_no_farther_than_the_others_spread(wrong, seed):
    """The first median leans towards the wrong ones; the second is taken over those near it alone."""
    known, rng = scene(seed), np.random.default_rng(seed)
    spread = rng.uniform(-0.04, 0.04, SHAPE)
    lies = rng.random(SHAPE) < wrong
    depth = (known * np.exp(spread + 2.0 * lies)).astype(np.float32)
    fit = align_depth(depth, known, np.ones(SHAPE, bool), CONFIG)
    honest = float(np.median(-spread[~lies]))
    assert abs(np.log(fit.scale) - honest) < 0.004


def test_a_refused_chunk_is_shown_but_not_remembered():
    model = walled_world_model(depth=Breathing(4.0))
    model = replace(model, config=replace(model.config, alignment=replace(CONFIG, min_cells=8)))
    _, state = model.start(picture())
    chunk, after = model.step(state, still(state))
    assert chunk.alignment.refused
    assert not chunk.keep.any()
    assert after.memory.points == state.memory.points
    assert after.chunk == state.chunk + 1


def test_alignment_is_off_unless_the_model_asks_for_it():
    model = walled_world_model()
    _, state = model.start(picture())
    assert model.step(state, path(state.camera))[0].alignment is None


@pytest.mark.parametrize(
    "wrong",
    [{"min_cells": 0}, {"tolerance": -0.1}, {"min_agreement": 1.5}, {"max_scale": 0.5}, {"max_scale": math.nan}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
        AlignmentConfig(**wrong)
