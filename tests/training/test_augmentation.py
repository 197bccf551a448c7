"""Pictures as cameras take them."""

import torch

from mirage_env.training.augmentation import as_taken


def test_pictures_change_within_range_and_each_in_its_own_way():
    images = torch.nn.functional.interpolate(torch.rand(12, 3, 8, 8) * 1.6 - 0.8, scale_factor=4)
    taken = as_taken(images, torch.Generator().manual_seed(0))
    change = (taken - images).flatten(1).abs().mean(1)
    assert taken.shape == images.shape
    assert taken.abs().max() <= 1.0 + 1e-5
    assert 0.4 < (change > 0.02).float().mean() < 1.0
    assert change[change > 0.02].std() > 0.01
    again = as_taken(images, torch.Generator().manual_seed(0))
    assert torch.equal(taken, again)
