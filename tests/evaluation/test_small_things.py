"""Small things: which are looked for, and when they count as recognised."""

import numpy as np
import torch

from mirage_env.evaluation.small_things import recognised, small_things
from mirage_env.rooms.room import RoomView


def view(instance, mover=None):
    instance = np.asarray(instance, np.int16)
    mover = np.zeros(instance.shape, bool) if mover is None else mover
    return RoomView(
        np.zeros((*instance.shape, 3), np.uint8), np.ones(instance.shape, np.float32), instance, mover, mover
    )


def with_patch(number, rows, columns, size=64):
    instance = np.full((size, size), 3)
    instance[rows, columns] = number
    return instance


VASE = (slice(20, 28), slice(30, 38))


def test_small_things_are_those_at_rest_in_both_views_and_neither_walls_nor_specks_nor_wardrobes():
    first, last = with_patch(9, *VASE), with_patch(9, *VASE)
    first[40:44, 5:9] = last[41:45, 5:9] = 10
    assert sum(1 for _ in small_things(view(first), view(last))) == 2
    [mask] = small_things(view(first), view(with_patch(9, *VASE)))
    assert np.array_equal(mask.numpy(), with_patch(9, *VASE) == 9)
    moving = view(last, last == 9)
    assert [int(m.sum()) for m in small_things(view(first), moving)] == [16]
    wall, speck = with_patch(5, *VASE), with_patch(9, slice(3, 5), slice(3, 5))
    wardrobe = with_patch(9, slice(0, 40), slice(0, 40))
    for other in (wall, speck, wardrobe):
        assert not list(small_things(view(other), view(other)))


def picture(mask, thing, wall):
    return torch.where(mask, torch.tensor(thing)[:, None, None], torch.tensor(wall)[:, None, None])


def test_thing_is_recognised_where_it_stands_and_not_as_fog_or_elsewhere():
    mask = torch.from_numpy(with_patch(9, *VASE) == 9)
    truth = picture(mask, [0.5, -0.2, 0.1], [-0.4, -0.4, -0.3])
    faint = truth * 0.6 + 0.4 * truth.mean((1, 2), keepdim=True)  # paler, and still itself
    assert recognised(truth, truth, iter([mask])) == [True]
    assert recognised(faint, truth, iter([mask])) == [True]
    assert recognised(picture(mask, [-0.4, -0.4, -0.3], [-0.4, -0.4, -0.3]), truth, iter([mask])) == [False]
    assert recognised(truth.roll(8, 2), truth, iter([mask])) == [False]


def test_thing_that_the_truth_does_not_tell_from_the_wall_is_left_out():
    mask = torch.from_numpy(with_patch(9, *VASE) == 9)
    plain = torch.zeros(3, 64, 64)
    assert recognised(plain, plain, iter([mask])) == []
