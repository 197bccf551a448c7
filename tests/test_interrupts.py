"""The first Ctrl-C waits for the end of what is being done, the second does not."""

import signal
import threading

import pytest

from mirage_env.interrupts import SIGNALS, signals_interrupt, waiting_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("times", "finished"), [(1, True), (2, False)])
def test_first_interrupt_waits_for_the_end_and_a_second_does_not(times, finished, number):
    done = []

    def work():
        with waiting_interrupt() as interrupt:
            assert not interrupt
            for _ in range(times):
                signal.raise_signal(number)
            assert interrupt
            done.append("finished")

    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        work()
    assert bool(done) == finished


@pytest.mark.parametrize("asks", [False, True])
def test_interrupts_are_afterwards_as_they_were_before(asks):
    before = signal.getsignal(signal.SIGINT)
    try:
        with waiting_interrupt():
            if asks:
                signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        assert asks
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_to_stop_interrupts_as_ctrl_c_does(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        signal.raise_signal(number)
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt(), waiting_interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_error_within_is_the_one_that_is_raised():
    def fail():
        with waiting_interrupt():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("what went wrong")

    with pytest.raises(ValueError, match="what went wrong"):
        fail()


def test_not_enabled_or_beside_the_main_thread_it_does_nothing():
    with pytest.raises(KeyboardInterrupt), waiting_interrupt(enabled=False):
        signal.raise_signal(signal.SIGINT)

    def beside():
        with waiting_interrupt() as interrupt:
            seen.append(bool(interrupt))

    seen = []
    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()
    assert seen == [False]
