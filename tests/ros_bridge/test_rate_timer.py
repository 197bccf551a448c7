"""A timer beats by its clock, however that goes."""

import time

import numpy as np
import pytest

from ros_bridge.timing.rate_timer import RateTimer


def until(condition):
    end = time.monotonic() + 120.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_beats_keep_the_rate_and_those_that_were_missed_are_left_out():
    times, now = [], [100.0]

    def clock():
        now[0] += 0.001
        return now[0]

    def tick():
        times.append(now[0])
        if len(times) == 5:
            now[0] += 0.1

    timer = RateTimer(tick, 100.0, clock)
    until(lambda: len(times) >= 20)
    timer.stop()
    seen, gaps = len(times), np.diff(times)
    assert gaps[4] >= 0.1
    assert np.delete(gaps, 4).min() > 0.007, "none is made up for"
    assert np.delete(gaps, 4).max() < 0.014
    time.sleep(0.03)
    assert len(times) == seen, "none after it was stopped"


def test_a_clock_that_moves_by_whole_periods_gives_a_beat_for_each():
    """Sums of a period miss each other by rounding, and such a clock stands in between."""
    now, beats = [100.3], []
    timer = RateTimer(lambda: beats.append(now[0]), 25.0, lambda: now[0])
    for count in range(1, 40):
        until(lambda count=count: len(beats) >= count)
        now[0] = 100.3 + round(count * 0.04, 2)
    timer.stop()
    assert len(beats) <= 40


def test_what_went_wrong_in_a_beat_is_raised_by_check():
    timer = RateTimer(lambda: 1 / 0, 100.0, time.monotonic)
    until(lambda: timer._running.done())
    with pytest.raises(ZeroDivisionError):
        timer.check()
    timer.stop()


@pytest.mark.parametrize("now", [0.0, 100.0, 101.3, 1.76e9])
@pytest.mark.parametrize("rate", [10.0, 25.0, 30.0])
def test_a_clock_that_stands_gives_one_beat(now, rate):
    beats = []
    timer = RateTimer(lambda: beats.append(now), rate, lambda: now)
    until(lambda: beats)
    time.sleep(0.05)
    timer.stop()
    assert len(beats) == 1


def test_a_slow_clock_gives_the_beats_of_its_own_time():
    beats, began = [], time.monotonic()

    def clock():
        return 100.0 + 0.2 * (time.monotonic() - began)

    timer = RateTimer(lambda: beats.append(clock()), 25.0, clock)
    until(lambda: len(beats) > 2)
    timer.stop()
    assert len(beats) <= 1 + 25.0 * (clock() - 100.0)
