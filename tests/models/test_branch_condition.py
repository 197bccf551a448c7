"""Condition of a side branch: parts, their order and their channels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_wan import tiny_vae

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.models.small.refiner import WINNER_CHANNELS, winner_channels
from mirage_env.models.wan.branch_condition import MaskLatents, condition, condition_channels, mask_latents
from mirage_env.models.wan.video_codec import WanCodec

B, T, C, GRID = 2, 5, 8, (4, 4)
CHANNELS = {
    "known": C,
    "readout": C,
    "render": C,
    "mask": C,
    "ones": C,
    "hole": 1,
    "observed": 1,
    "winner": WINNER_CHANNELS,
    "rays": 6,
}


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
        "ones": MASKS.hole.expand(B, -1, -1, -1, -1),
        "hole": 1.0 - observed,
        "mask": observed * MASKS.seen + (1.0 - observed) * MASKS.hole,
    }
    out = condition(parts, KNOWN, READOUTS, RAYS, MASKS).transpose(1, 2)
    assert out.shape == (B, T, condition_channels(parts, C), *GRID)
    for part, channels in zip(parts, out.split([CHANNELS[p] for p in parts], 2), strict=True):
        assert torch.equal(channels, expected[part]), part


@pytest.mark.parametrize(
    ("parts", "channels"), [(("readout", "hole"), 49), (("readout", "ones"), 96), (("render", "mask"), 96)]
)
def test_published_layouts_have_their_channels(parts, channels):
    assert condition_channels(parts, 48) == channels


def test_unknown_part_is_refused_by_name():
    with pytest.raises(InvalidOptionError, match=r"'depth'.*'winner'"):
        condition_channels(("known", "depth"), C)


@pytest.mark.parametrize("masks", [None, MaskLatents(*(latent[1:] for latent in MASKS))])
@pytest.mark.parametrize("part", ["render", "mask", "ones"])
def test_part_without_encodings_of_the_chunk_is_refused_with_their_shape(part, masks):
    with pytest.raises(InvalidOptionError, match=rf"'{part}'.*\(5, 8, 4, 4\).*mask_latents"):
        condition((part,), KNOWN, READOUTS, RAYS, masks)


@torch.no_grad()
def test_mask_latents_are_the_codecs_own_of_constant_videos():
    vae = tiny_vae()
    masks = mask_latents(WanCodec(vae), 3, (32, 32), 4)
    for value, encoded in zip((-1.0, 0.0, 1.0), masks, strict=True):
        code = vae.encode(torch.full((1, 3, 9, 32, 32), value)).latent_dist.mode()
        torch.testing.assert_close(encoded, ((code - 0.1) / 0.5)[0].transpose(0, 1))


def test_preceding_readouts_follow_those_of_the_targets():
    shown, masks = draw(B, 2, C, *GRID, seed=30), MaskLatents(*(draw(T + 2, C, *GRID, seed=s) for s in (31, 32, 33)))
    shown[:, 0, :, 1, 1] = 0.0
    out = condition(("readout", "ones", "hole", "observed"), KNOWN, READOUTS, RAYS, masks, shown).transpose(1, 2)
    readout, ones, hole, observed = out.split([C, C, 1, 1], 2)
    assert torch.equal(readout[:, :T], torch.stack([r.latent for r in READOUTS]))
    assert torch.equal(readout[:, T:], shown)
    assert torch.equal(ones, masks.hole.expand(B, -1, -1, -1, -1))
    assert torch.equal(hole[:, T:, 0], (shown == 0).all(2).float())
    assert hole[:, T, 0, 1, 1].all()
    assert torch.equal(observed[:, :T, 0], torch.stack([r.observed for r in READOUTS]))
    assert not observed[:, T:].any()
