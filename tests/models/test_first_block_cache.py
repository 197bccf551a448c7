"""First-block cache: later blocks and their hints are reused whole, once, world by world and text by text."""

import pytest
import torch
from tiny_wan import CHANNELS, letters, tiny_transformer

from mirage_env.config.sampler import SamplerConfig
from mirage_env.interfaces import Readout
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.transformer import Control, FirstBlockCache, controlled

FRAMES, REFERENCES = 3, 1
CELLS = ("observed", "depth", "scale", "age")
READOUT = {"latent": (CHANNELS, 4, 4), "offset": (2, 4, 4), **dict.fromkeys(CELLS, (4, 4))}


@pytest.fixture(scope="module")
def net():
    return tiny_transformer(layers=4)


@pytest.fixture(scope="module")
def branch(net):
    torch.manual_seed(1)
    made = ControlBranch.from_transformer(net, ("readout",), (0, 2))
    for layer in made.after_proj:
        torch.nn.init.normal_(layer.weight, std=0.3)
    return made.eval()


def inputs(worlds=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(worlds, CHANNELS, REFERENCES + FRAMES, 4, 4, generator=g)
    time = torch.full((worlds, 4 * (REFERENCES + FRAMES)), 500.0)
    return (
        tokens,
        time,
        torch.randn(worlds, 4, 8, generator=g),
        torch.randn(worlds, CHANNELS, FRAMES, 4, 4, generator=g),
    )


@torch.no_grad()
def run(net, branch, given, cache=None):
    tokens, time, text, condition = given
    if branch is not None:
        return branch.run(net, tokens, time, text, condition, references=REFERENCES, cache=cache)
    return controlled(net, tokens, time, text, Control(cache=cache))


@pytest.mark.parametrize("hints", [True, False], ids=["branch", "no branch"])
def test_a_step_like_the_one_before_runs_one_block_and_gives_the_same_with_each_hint_once(net, branch, hints):
    branch, cache, given = branch if hints else None, FirstBlockCache(0.1), inputs()
    plain = run(net, branch, given)
    assert torch.equal(run(net, branch, given, cache), plain)
    calls = []
    hooks = [block.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, block in enumerate(net.blocks)]
    again = run(net, branch, given, cache)
    for hook in hooks:
        hook.remove()
    assert (calls, cache.skipped) == ([0], 1)
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-5)
    other = inputs(seed=5)
    torch.testing.assert_close(run(net, branch, other, cache), run(net, branch, other), rtol=1e-4, atol=1e-5)
    assert cache.skipped == 1


def test_each_world_of_a_batch_is_decided_by_itself(net, branch):
    cache, two, other = FirstBlockCache(0.1), inputs(2), inputs(2, seed=5)
    first = run(net, branch, two, cache)
    mixed = tuple(torch.stack([a[0], b[1]]) for a, b in zip(two, other, strict=True))
    nearly = (mixed[0] + torch.tensor([1e-3, 0.0])[:, None, None, None, None], *mixed[1:])
    found, plain = run(net, branch, nearly, cache), run(net, branch, nearly)
    torch.testing.assert_close(found[1], plain[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], first[0], rtol=0.1, atol=0.02)
    assert not torch.allclose(found[0], plain[0], rtol=1e-6, atol=1e-7), "reused, not computed"
    assert cache.skipped == 0, "not for both"
    alone = FirstBlockCache(0.1)
    run(net, branch, tuple(x[:1] for x in two), alone)
    one = run(net, branch, tuple(x[:1] for x in nearly), alone)
    torch.testing.assert_close(one[0], found[0], rtol=1e-4, atol=1e-5)


def denoiser(**sampler):
    config = SamplerConfig(3, 5.0, "flow", couple=False, solver="unipc", guidance_scale=3.0, **sampler)
    return ChunkDenoiser(tiny_transformer(), None, config, letters).eval()


@torch.no_grad()
def generate(net):
    return net.generate(
        known=torch.zeros(1, FRAMES, CHANNELS, 4, 4),
        readout=[Readout(**{name: torch.zeros(FRAMES, *shape) for name, shape in READOUT.items()})],
        rays=torch.zeros(1, FRAMES, 6, 4, 4),
        preceding=[torch.zeros(0, CHANNELS, 4, 4)],
        generators=[torch.Generator().manual_seed(0)],
        prompts=["a"],
    )


def test_a_sampler_without_a_threshold_is_as_before_and_guidance_in_two_calls_has_two_caches():
    plain = generate(denoiser(negative_prompt="x"))
    assert torch.equal(generate(denoiser(negative_prompt="x", block_cache=0.0)), plain)
    net = denoiser(negative_prompt="x", block_cache=1e9)
    batched = generate(net)
    assert not torch.allclose(batched, plain, atol=1e-4)
    net.batch_guidance = False
    torch.testing.assert_close(generate(net), batched, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(generate(net), batched, rtol=1e-4, atol=1e-5)  # nothing is left of the chunk before
