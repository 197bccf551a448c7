"""What a readout must not depend on: the backend, and the worlds that are read with it."""

from dataclasses import fields, replace

import pytest
import torch
from stand_ins import path, picture, walled_world_model

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.memory.latent import read_batch
from mirage_env.memory.rgb import RgbMemory
from mirage_env.readout.backends import CPU


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


def walked(model, seed, chunks=2):
    _, state = model.start(picture(seed), seed=seed)
    for _ in range(chunks):
        _, state = model.step(state, path(state.camera, turn=0.1 * seed))
    return state


def fresh(memory):
    """The same memory, which has not been read yet."""
    return replace(memory)


def assert_same(a: Readout, b: Readout) -> None:
    for field in fields(Readout):
        assert torch.equal(getattr(a, field.name), getattr(b, field.name)), field.name


def test_worlds_read_together_show_what_each_shows_alone(model):
    states = [walked(model, seed) for seed in range(3)]
    views = [[s.camera, *path(s.camera)] for s in states]
    together = read_batch([fresh(s.memory) for s in states], views, [3, 4, 5])
    for state, cameras, now, readout in zip(states, views, (3, 4, 5), together, strict=True):
        assert_same(readout, fresh(state.memory).read(cameras, now))


def test_memories_of_different_kinds_may_be_read_together(model):
    state = walked(model, 0)
    rgb = replace(model, memory_factory=RgbMemory.factory(model.codec)).start(picture(0))[1]
    views = [[state.camera], [rgb.camera]]
    latent, coloured = read_batch([fresh(state.memory), fresh(rgb.memory)], views, [3, 1])
    assert_same(latent, fresh(state.memory).read(views[0], 3))
    assert_same(coloured, fresh(rgb.memory).read(views[1], 1))


def test_every_backend_shows_the_same(model):
    state = walked(model, 1)
    views = [state.camera, *path(state.camera)]
    assert_same(fresh(state.memory).on(CPU, "torch").read(views, 3), fresh(state.memory).read(views, 3))


def test_a_world_goes_on_alike_with_every_backend(model):
    state = walked(model, 1)
    other = replace(state, memory=state.memory.on(CPU, "torch"))
    (chunk, after), (twin, beside) = (model.step(s, path(state.camera)) for s in (state, other))
    assert torch.equal(chunk.frames, twin.frames)
    assert after.memory.points == beside.memory.points
    assert beside.memory.backend == "torch"


def test_a_backend_that_does_not_run_there_is_refused(model):
    memory = walked(model, 0, chunks=0).memory
    with pytest.raises(InvalidOptionError, match="numba"):
        memory.on(torch.device("cuda"), "numba")


def test_a_readout_may_be_changed_without_changing_the_memory(model):
    state = walked(model, 1)
    readout = state.memory.read([state.camera], 3)
    kept = readout.depth.clone()
    readout.depth.zero_()
    readout.latent.zero_()
    assert torch.equal(state.memory.read([state.camera], 3).depth, kept)
