"""Masks grow, close and open; parts of them that are nowhere broad go as a whole."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_env.memory.masks import opened, widened, without_specks


@given(st.integers(0, 2**31), st.sampled_from([3, 5]))
def test_parts_stay_whole_or_go_whole(seed, side):
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random((1, 6, 6)) < 0.5).repeat_interleave(4, 1).repeat_interleave(4, 2)
    kept = without_specks(mask, side)
    assert not (kept & ~mask).any()
    assert not (opened(mask, side) & ~kept).any()
    assert not (widened(kept, 3) & mask & ~kept).any()  # nothing that it touches was left out
    lost = mask & ~kept
    assert not opened(lost, side).any()


def test_a_leg_stays_with_its_body_and_a_speck_of_its_breadth_goes():
    mask = torch.zeros(1, 24, 24, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    mask[:, 12:20, 6:8] = True  # a leg
    body = mask.clone()
    mask[:, 15:19, 15:17] = True
    assert torch.equal(without_specks(mask, 5), body)
    assert not without_specks(torch.zeros(1, 8, 8, dtype=torch.bool), 5).any()
