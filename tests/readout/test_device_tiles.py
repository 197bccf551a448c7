"""Copies of blocks on a device: made once, for as long as the block lives, tiles newest block first."""

import gc

import numpy as np
import torch
from scenes import block_of, cloud

from mirage_env.readout import device_tiles
from mirage_env.readout.device_tiles import Tiles, on_device

CPU = torch.device("cpu")


def test_an_array_is_copied_once_and_keeps_its_bits(rng):
    array = rng.integers(0, 65536, 50).astype(np.uint16)
    copy = on_device(array, CPU)
    assert on_device(array, CPU) is copy
    np.testing.assert_array_equal(copy.numpy().view(np.uint16), array)
    array[:] = 0
    assert copy.any()


def test_a_copy_goes_with_its_array(rng):
    block = cloud(rng, 30, 1)[0]
    key = id(block.xyz), CPU
    on_device(block.xyz, CPU)
    assert key in device_tiles._copies
    del block
    gc.collect()
    assert key not in device_tiles._copies


def test_new_confidence_copies_nothing_anew(rng):
    block = cloud(rng, 30, 1)[0]
    copy = on_device(block.feature, CPU)
    assert on_device(block.with_confidence(block.confidence + 1).feature, CPU) is copy


def test_tiles_are_those_of_the_blocks_newest_block_first(rng):
    blocks = cloud(rng, 200, 3)
    tiles, expected = Tiles.of(blocks, CPU), []
    for number in reversed(range(len(blocks))):
        b = blocks[number]
        expected += [
            (number, int(b.first[i]), int(b.first[i + 1] - b.first[i]), *(b.anchor + b.low[i]), *b.step[i])
            for i in range(len(b.low))
        ]
    found = torch.cat([torch.stack([tiles.block, tiles.start, tiles.count.long()], 1), tiles.corner, tiles.step], 1)
    np.testing.assert_array_equal(found.numpy(), np.array(expected, np.float64))


def test_no_block_has_no_tile():
    for blocks in ([], [block_of(np.zeros((0, 3)), np.zeros(0))]):
        assert not len(Tiles.of(blocks, CPU).count)
