"""Offloading, tiling, and smaller weights."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import autoencoder
from torch import nn

from mirage_env.models.offload import PlacedCodec, PlacedSegmenter, Turns, decoding_bytes, set_tiling
from mirage_env.models.small.conv_codec import ConvCodec

META = torch.device("meta")
"""A device that can be told from the CPU everywhere; nothing can be computed there."""


def networks():
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)) for _ in range(3)]


def places(*modules):
    return {str(p.device) for m in modules for p in m.parameters()}


def test_networks_take_turns():
    first, second, third = networks()
    turns = Turns(META)
    bring_pair, bring_third = turns.member(first, second), turns.member(third)
    assert places(first, second, third) == {"cpu"}
    for _ in range(2):
        assert bring_pair() == META
        assert (places(first, second), places(third)) == ({"meta"}, {"cpu"})
        assert bring_third() == META
        assert (places(first, second), places(third)) == ({"cpu"}, {"meta"})
    turns.clear()
    assert places(first, second, third) == {"cpu"}


def test_weights_come_back_as_they_were():
    (network, other, _), (same, *_) = networks(), networks()
    turns = Turns(META)
    bring, others = turns.member(network), turns.member(other)
    bring()
    others()
    for own, expected in zip(network.parameters(), same.parameters(), strict=True):
        assert torch.equal(own, expected)


def test_weights_that_are_there_are_not_brought_again():
    (network, *_), turns = networks(), Turns(META)
    bring = turns.member(network)
    bring()
    there = list(network.parameters())
    bring()
    assert all(a is b for a, b in zip(there, network.parameters(), strict=True))


class Doubler(nn.Module):
    """Notes its calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def segment(self, images):
        self.calls.append((images.dtype, images.device))
        return 2 * images


def test_placed_network_is_brought_before_it_is_called():
    calls: list[object] = []
    cpu = torch.device("cpu")
    placed = PlacedSegmenter(Doubler(calls), cpu, torch.float64, lambda: calls.append("brought") or META)
    out = placed.segment(torch.ones(2))
    assert calls == ["brought", (torch.float64, cpu)]
    assert out.dtype == torch.float32
    assert out.tolist() == [2.0, 2.0]


def test_copied_networks_take_turns_of_their_own():
    first, second, _ = networks()
    turns = Turns(META)
    bring, other = turns.member(first), turns.member(second)
    bring()
    first_copy, second_copy, bring_copy, other_copy = copy.deepcopy((first, second, bring, other))
    other_copy()
    assert (places(first_copy), places(second_copy)) == ({"cpu"}, {"meta"})
    assert (places(first), places(second)) == ({"meta"}, {"cpu"})
    bring_copy()
    assert (places(first_copy), places(second_copy)) == ({"meta"}, {"cpu"})


@pytest.mark.parametrize(
    ("asked", "free", "tiled"), [(None, 10, True), (None, 1000, False), (True, 1000, True), (False, 10, False)]
)
def test_autoencoder_works_in_tiles_only_where_memory_asks_for_it(asked, free, tiled):
    vae = autoencoder()
    set_tiling(vae, asked, needed=100, free=free)
    assert vae.use_tiling == tiled


def test_decoding_at_full_size_takes_gigabytes_and_grows_with_the_picture():
    from diffusers import AutoencoderKLWan

    from mirage_env.models.io.state_dicts import empty_module

    full = empty_module(
        AutoencoderKLWan,
        {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": [0.0] * 48,
            "latents_std": [1.0] * 48,
        },
        Path("vae"),
    )
    needed = decoding_bytes(full, (704, 1280), torch.bfloat16)
    assert 9.2 * 2**30 < needed < 10 * 2**30
    assert decoding_bytes(full, (1408, 1280), torch.float32) == 4 * needed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_world_showed_can_be_encoded_again_and_needs_no_gradient(dtype):
    codec = PlacedCodec(ConvCodec(4, 8, 8, 1).to(dtype), torch.device("cpu"), dtype)
    with torch.inference_mode():
        frames = torch.zeros(1, 3, 32, 32)
    assert not codec.decode(codec.encode(frames)).requires_grad
