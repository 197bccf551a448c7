"""Solvers of the flow and known tokens."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.config.sampler import PlacementConfig, SamplerConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.models.wan.flow_solvers import noise_levels, solver_of
from mirage_env.models.wan.known_tokens import FREE, known_levels

SHAPE = (1, 2, 3, 4, 4)
SOLVERS = ("euler", "unipc", "renoise")


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def run(config: SamplerConfig, clean_of) -> torch.Tensor:
    """x_0 from pure noise, with a network that says `clean_of(x, sigma)`."""
    count = iter(range(100, 200))
    solver = solver_of(config, lambda: noise(next(count)))
    x = noise()
    for i, sigma in enumerate(solver.sigmas[:-1]):
        x = solver.step(x, clean_of(x, sigma), i)
    return x


@pytest.mark.parametrize("solver", SOLVERS)
@given(steps=st.integers(1, 12), shift=st.floats(0.5, 8.0))
def test_a_network_that_knows_the_answer_is_followed_to_it(solver, steps, shift):
    answer = noise(7)
    found = run(SamplerConfig(steps, shift, solver=solver), lambda x, sigma: answer)
    torch.testing.assert_close(found, answer, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_levels_fall_from_one_to_zero(solver):
    sigmas = solver_of(SamplerConfig(20, 5.0, solver=solver), noise).sigmas
    assert len(sigmas) == 21
    assert sigmas[0] == pytest.approx(1.0, abs=1e-5)
    assert sigmas[-1] == 0.0
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[10] == pytest.approx(5.0 * 0.5 / 3.0, abs=2e-3)  # the shift of the flow at one half


def test_unipc_is_of_higher_order_than_euler():
    """Of a Gaussian of deviation 1/2 the flow is known: x_0 = x_1 / 2."""

    def clean_of(x, sigma):
        return x * 0.25 * (1.0 - sigma) / (0.25 * (1.0 - sigma) ** 2 + sigma**2)

    def error(solver, steps):
        return float((run(SamplerConfig(steps, 1.0, solver=solver), clean_of) - 0.5 * noise()).abs().max())

    assert error("unipc", 20) < 0.2 * error("euler", 20)
    assert error("euler", 40) < 0.7 * error("euler", 20)


@pytest.mark.parametrize("solver", SOLVERS)
def test_distilled_weights_get_their_own_timesteps(solver):
    config = SamplerConfig(solver=solver, timesteps=(1000.0, 757.0, 522.0))
    assert solver_of(config, noise).sigmas == pytest.approx([1.0, 0.757, 0.522, 0.0], abs=1e-5)
    assert noise_levels(config) == [1.0, 0.757, 0.522, 0.0]


def test_renoising_uses_fresh_noise_of_the_next_level():
    solver = solver_of(SamplerConfig(solver="renoise", timesteps=(1000.0, 500.0)), lambda: noise(3))
    clean = noise(4)
    torch.testing.assert_close(solver.step(noise(), clean, 0), 0.5 * clean + 0.5 * noise(3))
    assert torch.equal(solver.step(noise(), clean, 1), clean)


@pytest.mark.parametrize("timesteps", [(1001.0,), (500.0, 500.0), (500.0, 757.0), (500.0, 0.0)])
def test_timesteps_that_do_not_fall_are_refused(timesteps):
    with pytest.raises(InvalidOptionError, match="they must fall, from at most 1000 to above 0"):
        SamplerConfig(timesteps=timesteps)


def readout(**values: torch.Tensor) -> Readout:
    zero = torch.zeros(1, 4, 4)
    parts = {"observed": torch.ones(1, 4, 4), "depth": zero, "scale": zero, "age": zero, **values}
    return Readout(latent=torch.zeros(1, 3, 4, 4), offset=torch.zeros(1, 2, 4, 4), **parts)


def test_old_and_coarse_tokens_are_known_less_well():
    config = PlacementConfig(enabled=True, base=0.1, per_chunk=0.02, per_scale=0.3, most=0.6)
    age, scale = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    age[0, 0, 0], scale[0, 0, 2], scale[0, 2, 0], age[0, 2, 2] = 5.0, 0.5, -0.5, 500.0
    level = known_levels(readout(age=age, scale=scale), config, (2, 2))
    expected = torch.tensor([[0.2, 0.25], [0.25, 0.6]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(level[0], expected)


def test_a_token_with_an_unknown_cell_is_free():
    observed = torch.ones(1, 4, 4)
    observed[0, 1, 1] = 0.0
    level = known_levels(readout(observed=observed), PlacementConfig(enabled=True), (2, 2))
    assert (level[0, :2, :2] == FREE).all()
    assert (level[0, 2:] == PlacementConfig().base).all()


@pytest.mark.parametrize("change", [{"base": -0.1}, {"most": 1.5}, {"per_scale": -1.0}])
def test_noise_levels_out_of_range_are_refused(change):
    with pytest.raises(InvalidOptionError):
        dataclasses.replace(PlacementConfig(), **change)
