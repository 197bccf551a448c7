"""Records of steps: the state after one comes back bit for bit, and nothing else is believed."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from endless_writer import CONFIG, made_up, same_block, same_movers
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import path, picture, true_rows, walled_world_model

from mirage_env.errors import CacheCorruptError
from mirage_env.memory.latent import LatentMemory
from mirage_env.serving.step_log import repeat_step, step_record
from mirage_env.store import load_world, save_world


@pytest.fixture(scope="module")
def walked():
    """A model, and the states of a walk that comes back to what it has seen."""
    model = walled_world_model()
    states = [model.start(picture(3), seed=5)[1]]
    for turn in (0.3, -0.3, 0.2, -0.4):
        states.append(model.step(states[-1], path(states[-1].camera, turn))[1])
    return model, states


def assert_same(one, other):
    for name in ("latents", "noise"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.camera.T_world_cam, other.camera.T_world_cam)
    np.testing.assert_array_equal(one.camera.K_image, other.camera.K_image)
    assert (one.chunk, one.prompt, one.memory.frames) == (other.chunk, other.prompt, other.memory.frames)
    assert len(one.memory.blocks) == len(other.memory.blocks)
    for block, twin in zip(one.memory.blocks, other.memory.blocks, strict=True):
        for field in fields(block):
            if field.name != "frames":
                mine, theirs = getattr(block, field.name), getattr(twin, field.name)
                assert mine.dtype == theirs.dtype
                np.testing.assert_array_equal(mine, theirs)
        for name in (field.name for field in fields(block.frames)):
            np.testing.assert_array_equal(getattr(block.frames, name), getattr(twin.frames, name))


def test_state_after_a_step_comes_back_bit_for_bit(walked, tmp_path):
    model, states = walked
    records = [step_record(before, after) for before, after in pairwise(states)]
    save_world(tmp_path / "begin.zarr", states[0], model)
    state = load_world(tmp_path / "begin.zarr", model)
    for record, after in zip(records, states[1:], strict=True):
        state = repeat_step(state, record)
        assert_same(state, after)
    assert any('"evidence"' in record[:2000].decode("latin-1") for record in records)


def test_movers_come_back_with_a_step():
    _, before = made_up(1, LatentMemory.empty(CONFIG))
    _, after = made_up(2, before.memory)
    assert len(after.movers) == 2
    assert same_movers(repeat_step(before, step_record(before, after)).movers, after.movers)


def test_measured_depth_comes_back_with_a_step():
    _, before = made_up(1, LatentMemory.empty(CONFIG))
    _, after = made_up(2, before.memory)
    *older, block = after.memory.blocks
    frames = block.frames.with_depth(int(block.frames.row[-1]), np.full((4, 4), 1.5, np.float16))
    after = replace(after, memory=replace(after.memory, blocks=(*older, replace(block, frames=frames))))
    again = repeat_step(before, step_record(before, after)).memory.blocks[-1].frames
    assert again.measured.sum() == 1
    assert np.array_equal(again.depth, frames.depth)


def test_which_views_were_truly_seen_comes_back_with_a_step():
    _, before = made_up(1, LatentMemory.empty(CONFIG))
    _, after = made_up(2, before.memory)
    again = repeat_step(before, step_record(before, after)).memory
    assert len(true_rows(after.memory)) > len(true_rows(before.memory)) > 0
    assert all(map(same_block, again.blocks, after.memory.blocks))
    assert true_rows(again) == true_rows(after.memory)


def test_blocks_that_stay_are_not_written_again(walked):
    _, states = walked
    record = step_record(states[-2], states[-1])
    assert b'"same"' in record[:2000]


def test_record_of_another_step_is_refused(walked):
    _, states = walked
    with pytest.raises(CacheCorruptError, match="follow"):
        repeat_step(states[0], step_record(states[1], states[2]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_records_are_refused(walked, data):
    _, states = walked
    record = step_record(states[0], states[1])
    with pytest.raises(CacheCorruptError):
        repeat_step(states[0], record[: data.draw(st.integers(0, len(record) - 1))])
