"""The sampler: what a chunk is drawn from, and what it may not depend on."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import path, picture, walled_world_model
from tiny import tiny_world_model
from torch import nn

from mirage_env.config.sampler import SamplerConfig
from mirage_env.interfaces import Readout
from mirage_env.models.wan.chunk_denoiser import TRAIN_TIMESTEPS, ChunkDenoiser

T, P, C, GRID = 5, 1, 8, (4, 4)


class Backbone(nn.Module):
    """Stands where the video transformer does: answers with what a function makes of the tokens [B, C, T + P, h, w]."""

    def __init__(self, answer=torch.zeros_like) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(C, 1, 1)
        self.config = SimpleNamespace(patch_size=(1, 2, 2), text_dim=8)
        self.answer = answer
        self.calls = []

    def forward(self, tokens, timestep, text, return_dict):
        self.calls.append((tokens, timestep, text))
        return (self.answer(tokens),)


def worlds(count: int, seed: int = 0) -> dict:
    """Inputs of `generate` for some worlds."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=rng)

    readouts = []
    for _ in range(count):
        observed = (torch.rand(T, *GRID, generator=rng) < 0.6).float()
        parts = {"latent": draw(T, C, *GRID), "depth": 1.0 + draw(T, *GRID).abs(), "offset": 0.2 * draw(T, 2, *GRID)}
        parts |= {"scale": 0.2 * draw(T, *GRID), "age": torch.ones(T, *GRID)}
        shown = {k: v * (observed[:, None] if v.ndim == 4 else observed) for k, v in parts.items()}
        readouts.append(Readout(observed=observed, **shown))
    return {
        "known": draw(count, T, C, *GRID),
        "readout": readouts,
        "rays": draw(count, T, 6, *GRID),
        "preceding": draw(count, P, C, *GRID),
    }


def some_of(inputs: dict, indices: list[int]) -> dict:
    return {k: [v[i] for i in indices] if isinstance(v, list) else v[indices] for k, v in inputs.items()}


def generators(seeds) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + s) for s in seeds]


def observed_cells(inputs: dict) -> torch.Tensor:  # [B, T, 1, h, w]
    return torch.stack([r.observed[:, None] for r in inputs["readout"]])


@given(steps=st.integers(1, 40), shift=st.floats(0.05, 20.0))
def test_noise_levels_fall_from_one_to_zero(steps, shift):
    levels = ChunkDenoiser(Backbone(), None, SamplerConfig(steps=steps, shift=shift)).sigmas()
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(1.0)
    assert levels[-1] == 0.0
    assert all(a > b for a, b in pairwise(levels))


def test_shift_of_one_spaces_the_levels_evenly_and_a_larger_one_stays_noisy_longer():
    even = ChunkDenoiser(Backbone(), None, SamplerConfig(steps=4, shift=1.0)).sigmas()
    late = ChunkDenoiser(Backbone(), None, SamplerConfig(steps=4, shift=5.0)).sigmas()
    assert even == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert all(a < b for a, b in zip(even[1:-1], late[1:-1], strict=True))


@pytest.mark.parametrize("steps", [1, 3])
@torch.no_grad()
def test_shared_frame_comes_back_untouched(steps):
    inputs = worlds(2)
    out = tiny_world_model(steps=steps).generator.generate(**inputs, generators=generators([0, 1]))
    assert out.shape == inputs["known"].shape
    assert torch.equal(out[:, 0], inputs["known"][:, 0])


@pytest.mark.parametrize("order", [[0], [1, 0], [2, 0, 1]])
@torch.no_grad()
def test_a_world_does_not_depend_on_who_shares_its_batch(order):
    denoiser, inputs = tiny_world_model(steps=2).generator, worlds(3)
    together = denoiser.generate(**inputs, generators=generators([0, 1, 2]))
    others = denoiser.generate(**some_of(inputs, order), generators=generators(order))
    torch.testing.assert_close(others, together[order], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_same_generators_give_the_same_chunk_and_others_another_one():
    denoiser, inputs = tiny_world_model(steps=2).generator, worlds(1)
    first = denoiser.generate(**inputs, generators=generators([0]))
    torch.rand(7)
    assert torch.equal(first, denoiser.generate(**inputs, generators=generators([0])))
    assert not torch.equal(first, denoiser.generate(**inputs, generators=generators([1])))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("couple", [True, False])
def test_silent_network_shows_what_is_known_and_no_noise(steps, couple):
    inputs = worlds(2)
    sampler = SamplerConfig(steps=steps, prediction="sample", couple=couple)
    out = ChunkDenoiser(Backbone(), None, sampler).generate(**inputs, generators=generators([0, 1]))
    expected = inputs["known"] * observed_cells(inputs) if couple else torch.zeros_like(inputs["known"])
    torch.testing.assert_close(out[:, 1:], expected[:, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("couple", [True, False])
def test_flow_starts_from_what_is_known_only_when_coupled(couple):
    inputs, backbone = worlds(1), Backbone()
    sampler = SamplerConfig(steps=1, couple=couple)
    ChunkDenoiser(backbone, None, sampler).generate(**inputs, generators=generators([0]))
    ((tokens, _, _),) = backbone.calls
    noise = torch.randn(inputs["known"].shape[1:], generator=generators([0])[0])[None]
    observed = observed_cells(inputs)
    source = observed * inputs["known"] + (1.0 - observed) * noise if couple else noise
    torch.testing.assert_close(tokens[:, :, 1:T], source.transpose(1, 2)[:, :, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("couple", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_flow_network_that_knows_the_truth_recovers_it(steps, couple):
    inputs = worlds(2)
    truth = torch.randn(inputs["known"].shape, generator=torch.Generator().manual_seed(9))
    noise = torch.stack([torch.randn(truth.shape[1:], generator=g) for g in generators([0, 1])])
    sampler = SamplerConfig(steps=steps, prediction="flow", couple=couple)
    backbone = Backbone()
    denoiser = ChunkDenoiser(backbone, None, sampler)
    source, _ = denoiser.source(inputs["known"], observed_cells(inputs), noise)
    velocity = torch.cat([source - truth, torch.zeros_like(inputs["preceding"])], 1).transpose(1, 2)
    backbone.answer = lambda tokens: velocity
    out = denoiser.generate(**inputs, generators=generators([0, 1]))
    torch.testing.assert_close(out[:, 1:], truth[:, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sample_network_that_knows_the_truth_recovers_it(steps):
    inputs = worlds(1)
    truth = torch.randn(inputs["known"].shape, generator=torch.Generator().manual_seed(9))
    prior = inputs["known"] * observed_cells(inputs)
    residual = torch.cat([truth - prior, torch.zeros_like(inputs["preceding"])], 1).transpose(1, 2)
    denoiser = ChunkDenoiser(Backbone(lambda tokens: residual), None, SamplerConfig(steps=steps))
    out = denoiser.generate(**inputs, generators=generators([0]))
    torch.testing.assert_close(out[:, 1:], truth[:, 1:], rtol=0, atol=1e-5)


def test_network_sees_clean_frames_at_time_zero_and_the_rest_at_the_noise_level():
    inputs, backbone = worlds(1), Backbone()
    sampler = SamplerConfig(steps=2, shift=1.0)
    ChunkDenoiser(backbone, None, sampler).generate(**inputs, generators=generators([0]))
    assert len(backbone.calls) == 2
    for (tokens, timestep, _), sigma in zip(backbone.calls, (1.0, 0.5), strict=True):
        time = timestep.view(1, T + P, -1)
        assert time.shape[2] == GRID[0] * GRID[1] // 4
        assert not time[:, 0].any()
        assert not time[:, T:].any()
        torch.testing.assert_close(time[:, 1:T], torch.full_like(time[:, 1:T], sigma * TRAIN_TIMESTEPS))
        assert torch.equal(tokens[:, :, 0], inputs["known"][:, 0])
        assert torch.equal(tokens[:, :, T:], inputs["preceding"].transpose(1, 2))


@pytest.mark.parametrize("name", ["known", "rays", "preceding", "readout"])
@torch.no_grad()
def test_chunk_depends_on_every_input(name):
    denoiser, inputs = tiny_world_model().generator, worlds(1)
    for layer in (denoiser.branch.before_proj, *denoiser.branch.after_proj):
        nn.init.normal_(layer.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    before = denoiser.generate(**inputs, generators=generators([0]))
    after = denoiser.generate(**inputs | {name: worlds(1, seed=1)[name]}, generators=generators([0]))
    assert (before[:, 1:] - after[:, 1:]).abs().max() > 1e-4


@torch.no_grad()
def test_denoiser_works_without_a_branch():
    whole = tiny_world_model().generator
    inputs = worlds(1)
    out = ChunkDenoiser(whole.transformer, None, whole.sampler).generate(**inputs, generators=generators([0]))
    assert out.isfinite().all()


def test_two_threads_may_walk_with_one_model():
    model = walled_world_model()
    states = [model.start(picture(seed), seed=seed)[1] for seed in range(4)]
    alone = [model.step(state, path(state.camera))[0].latents for state in states]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda state: model.step(state, path(state.camera))[0].latents, states))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
