"""A timer beats by its clock, however that goes."""

import time

import pytest

from ros_bridge.player.rate_timer import RateTimer


@pytest.mark.parametrize("now", [0.0, 100.0, 101.3, 1.76e9])
@pytest.mark.parametrize("rate", [10.0, 25.0, 30.0])
def test_a_clock_that_stands_gives_one_beat(now, rate):
    beats = []
    timer = RateTimer(lambda: beats.append(now), rate, lambda: now)
    time.sleep(0.05)
    timer.stop()
    assert len(beats) == 1


def test_a_slow_clock_gives_the_beats_of_its_own_time():
    beats, began = [], time.monotonic()

    def clock():
        return 100.0 + 0.2 * (time.monotonic() - began)

    timer = RateTimer(lambda: beats.append(clock()), 25.0, clock)
    time.sleep(1.0)
    timer.stop()
    assert 1 <= len(beats) <= 1 + 25.0 * (clock() - 100.0)
