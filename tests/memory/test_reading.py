"""What a readout must not depend on: the backend, and the worlds that are read with it."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from stand_ins import path, picture, walled_world_model

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.memory.latent import splat_batch
from mirage_env.memory.rgb import RgbMemory
from mirage_env.readout.backends import CPU, splat_many


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


def walked(model, seed, chunks=2):
    _, state = model.start(picture(seed), seed=seed)
    for _ in range(chunks):
        _, state = model.step(state, path(state.camera, turn=0.1 * seed))
    return state


def assert_same(a: Readout, b: Readout) -> None:
    for field in fields(Readout):
        assert torch.equal(getattr(a, field.name), getattr(b, field.name)), field.name


def test_worlds_read_together_show_what_each_shows_alone(model):
    states = [walked(model, seed) for seed in range(3)]
    views = [[s.camera, *path(s.camera)] for s in states]
    together = splat_batch([s.memory for s in states], views)
    for state, cameras, splat in zip(states, views, together, strict=True):
        assert_same(state.memory.read(cameras, 3, splat), state.memory.read(cameras, 3))


def test_memories_of_different_kinds_may_be_read_together(model):
    state = walked(model, 0)
    rgb = replace(model, memory_factory=RgbMemory.factory(model.codec)).start(picture(0))[1]
    views = [[state.camera], [rgb.camera]]
    latent, coloured = splat_batch([state.memory, rgb.memory], views)
    assert_same(state.memory.read(views[0], 3, latent), state.memory.read(views[0], 3))
    assert_same(rgb.memory.read(views[1], 1, coloured), rgb.memory.read(views[1], 1))


@pytest.mark.parametrize("kind", ["latent", "rgb"])
def test_a_readout_that_is_known_changes_nothing_that_is_written(model, kind):
    if kind == "rgb":
        model = replace(model, memory_factory=RgbMemory.factory(model.codec))
    memory, views = walked(model, 2).memory, path(walked(model, 2).camera)
    T, c = len(views), model.config
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(T, c.latent_channels, *c.latent_size, generator=rng)
    images = torch.rand(T, 3, *c.image_size, generator=rng)
    view = (latents, images, torch.full((T, *c.image_size), 2.0), torch.ones(T, *c.latent_size, dtype=torch.bool))
    handed, found = memory.write(*view, views, 9, memory.splat(views)), memory.write(*view, views, 9)
    assert len(handed.blocks) == len(found.blocks)
    for a, b in zip(handed.blocks, found.blocks, strict=True):
        assert np.array_equal(a.xyz, b.xyz)
        assert np.array_equal(a.confidence, b.confidence)


def test_a_step_looks_into_the_memory_once(model, monkeypatch):
    model = replace(model, config=replace(model.config, references=2))
    state, seen = walked(model, 1), []
    monkeypatch.setattr("mirage_env.memory.latent.backends.splat_many", lambda *a: seen.append(a) or splat_many(*a))
    model.step(state, path(state.camera))
    assert len(seen) == 1


def test_a_world_keeps_nothing_of_what_was_read_from_it(model):
    state = walked(model, 1)
    state.memory.read([state.camera], 3)
    before = set(vars(state.memory))
    state.memory.read(path(state.camera), 3)
    assert set(vars(state.memory)) == before <= {f.name for f in fields(state.memory)} | {"_boxes"}


def test_every_backend_shows_the_same(model):
    state = walked(model, 1)
    views = [state.camera, *path(state.camera)]
    assert_same(state.memory.on(CPU, "torch").read(views, 3), state.memory.read(views, 3))


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


def test_quarters_are_what_a_grid_twice_as_fine_shows(model):
    memory = walked(model, 1).memory
    views = path(walked(model, 1).camera)
    told = replace(memory, readout=replace(memory.readout, quarters=True)).read(views, 3)
    rows, columns = memory.grid
    fine = replace(memory, grid=(2 * rows, 2 * columns)).read(views, 3)
    assert_same(told.finer, fine)
    assert fine.observed.mean() > 0.1
    assert_same(replace(told, quarters=torch.empty(0)), memory.read(views, 3))  # the cells themselves are as ever
    # A quarter lies in its cell: the upper right one of cell (i, j) is cell (2 i, 2 j + 1) of the fine grid.
    assert torch.equal(told.quarters[:, 1 : 4 * told.latent.shape[1] : 4], fine.latent[:, :, ::2, 1::2])


def test_quarters_follow_their_cells(model):
    memory = walked(model, 1).memory
    told = replace(memory, readout=replace(memory.readout, quarters=True)).read(path(walked(model, 1).camera), 3)
    mask = torch.zeros_like(told.observed, dtype=torch.bool)
    mask[:, 0] = True
    empty = Readout(**{f.name: torch.zeros_like(getattr(told, f.name)) for f in fields(Readout)})
    mixed = told.overlaid(empty, mask)
    assert (mixed.finer.latent[:, :, :2] == 0).all()
    assert torch.equal(mixed.finer.latent[:, :, 2:], told.finer.latent[:, :, 2:])
    plain = replace(empty, quarters=torch.empty(0))
    assert torch.equal(told.overlaid(plain, mask).quarters, told.quarters)  # nothing is known of these
    assert torch.equal(told[1:].quarters, told.quarters[1:])
