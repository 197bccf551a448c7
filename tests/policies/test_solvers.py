import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.planner.solvers import CEM, MPPI

SOLVERS = {"cem": CEM(samples=64, elites=8, iterations=6), "mppi": MPPI(samples=64, iterations=6)}
SHAPE = (3, 4, 2)


class Target:
    """Squared distance to a known sequence per problem."""

    def __init__(self, target):
        self.target = target
        self.seen = []

    def get_cost(self, info, candidates):
        self.seen.append(candidates.clone())
        return (candidates - self.target[:, None]).square().sum((-1, -2))


def target(seed=0):
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


@pytest.mark.parametrize("name", SOLVERS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_a_solver_comes_close_to_the_cheapest_sequence_of_every_problem(name, seed):
    plan = SOLVERS[name].solve(Target(target(seed)), {}, SHAPE, torch.Generator().manual_seed(seed))
    untouched = target(seed).square().sum((-1, -2))
    assert (plan.cost < 0.35 * untouched + 0.1).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_the_cost_of_a_plan_is_that_of_its_actions_and_never_rises(name):
    model = Target(target())
    plan = SOLVERS[name].solve(model, {}, SHAPE, torch.Generator().manual_seed(0))
    assert torch.allclose(model.get_cost({}, plan.actions[:, None])[:, 0], plan.cost)
    assert (plan.trace.diff(dim=1) <= 0).all()
    assert torch.equal(plan.trace[:, -1], plan.cost)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_plan_is_never_worse_than_where_the_search_began(name):
    start = target()
    plan = SOLVERS[name].solve(Target(target()), {}, SHAPE, torch.Generator().manual_seed(0), start=start)
    assert torch.allclose(plan.cost, torch.zeros(3), atol=1e-9)
    assert torch.equal(start, target())


@pytest.mark.parametrize("name", SOLVERS)
def test_the_generator_decides_everything(name):
    first, again, other = (
        SOLVERS[name].solve(Target(target()), {}, SHAPE, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_candidate_is_an_action(name):
    model = Target(target())
    SOLVERS[name].solve(model, {}, SHAPE, torch.Generator().manual_seed(0))
    assert all((c.abs() <= 1.0).all() and c.shape[::2] == (3, 4) for c in model.seen)


@pytest.mark.parametrize("name", SOLVERS)
def test_wrong_costs_are_refused(name):
    class Wrong:
        def __init__(self, cost):
            self.cost = cost

        def get_cost(self, info, candidates):
            return self.cost

    for cost in (torch.zeros(3), torch.full((3, 64), torch.nan)):
        with pytest.raises(ValueError, match="finite"):
            SOLVERS[name].solve(Wrong(cost), {}, SHAPE, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("solver", "wrong"),
    [
        (CEM, {"samples": 0}),
        (CEM, {"elites": 300}),
        (CEM, {"smoothness": 1.0}),
        (MPPI, {"iterations": 0}),
        (MPPI, {"temperature": 0.0}),
        (MPPI, {"spread": -1.0}),
    ],
)
def test_settings_out_of_range_are_refused(solver, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        solver(**wrong)
