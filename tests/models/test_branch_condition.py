"""Condition of a side branch: parts, their order and their channels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_world_model

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.models.small.refiner import WINNER_CHANNELS, winner_channels
from mirage_env.models.wan.branch_condition import MaskLatents, condition, condition_channels, mask_latents

B, T, C, GRID = 2, 5, 8, (4, 4)
CHANNELS = {"known": C, "readout": C, "render": C, "mask": C, "observed": 1, "winner": WINNER_CHANNELS, "rays": 6}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def a_readout(seed: int) -> Readout:
    observed = (draw(T, *GRID, seed=seed) > 0).float()
    parts = {"latent": draw(T, C, *GRID, seed=seed + 1), "depth": 1.0 + draw(T, *GRID, seed=seed + 2).abs()}
    parts |= {"offset": draw(T, 2, *GRID, seed=seed + 3), "scale": draw(T, *GRID, seed=seed + 4)}
    parts |= {"age": torch.ones(T, *GRID)}
    shown = {k: v * (observed[:, None] if v.ndim == 4 else observed) for k, v in parts.items()}
    return Readout(observed=observed, **shown)


READOUTS = [a_readout(0), a_readout(10)]
KNOWN, RAYS = draw(B, T, C, *GRID, seed=20), draw(B, T, 6, *GRID, seed=21)
MASKS = MaskLatents(*(draw(T, C, *GRID, seed=seed) for seed in (22, 23, 24)))


@given(parts=st.permutations(list(CHANNELS)).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n])))
def test_parts_come_in_the_order_asked_for_with_the_channels_promised(parts):
    latent = torch.stack([r.latent for r in READOUTS])
    observed = torch.stack([r.observed for r in READOUTS])[:, :, None]
    expected = {
        "rays": RAYS,
        "readout": latent,
        "winner": torch.stack([winner_channels(r) for r in READOUTS]),
        "observed": observed,
        "known": KNOWN,
        "render": latent + (1.0 - observed) * MASKS.black,
        "mask": observed * MASKS.seen + (1.0 - observed) * MASKS.hole,
    }
    out = condition(parts, KNOWN, READOUTS, RAYS, MASKS).transpose(1, 2)
    assert out.shape == (B, T, condition_channels(parts, C), *GRID)
    for part, channels in zip(parts, out.split([CHANNELS[p] for p in parts], 2), strict=True):
        assert torch.equal(channels, expected[part]), part


@pytest.mark.parametrize(("parts", "channels"), [(("readout", "observed"), 49), (("render", "mask"), 96)])
def test_published_layouts_have_their_channels(parts, channels):
    assert condition_channels(parts, 48) == channels


def test_unknown_part_is_refused_by_name():
    with pytest.raises(InvalidOptionError, match=r"'depth'.*'winner'"):
        condition_channels(("known", "depth"), C)


@pytest.mark.parametrize("masks", [None, MaskLatents(*(latent[1:] for latent in MASKS))])
@pytest.mark.parametrize("part", ["render", "mask"])
def test_part_without_encodings_of_the_chunk_is_refused_with_their_shape(part, masks):
    with pytest.raises(InvalidOptionError, match=rf"'{part}'.*\(5, 8, 4, 4\).*mask_latents"):
        condition((part,), KNOWN, READOUTS, RAYS, masks)


@torch.no_grad()
def test_mask_latents_are_the_codecs_own_of_constant_videos():
    codec = tiny_world_model().codec
    for value, encoded in zip((-1.0, 0.0, 1.0), mask_latents(codec, T, (32, 32)), strict=True):
        assert torch.equal(encoded, codec.encode(torch.full((T, 3, 32, 32), value)))
