from __future__ import annotations

import pytest

from kmp_smsd.service.pulse import BEAT_EVERY_S, REMEMBERED_BEATS, Pulse
from tests.service.by_hand import ReactorByHand


class At:
    def __init__(self):
        self.reactor = ReactorByHand()
        self.beats = 0
        self.fails = False
        self.pulse = Pulse(self.beat, self.reactor, monotonic=self.reactor.seconds)
        self.pulse.start()

    def beat(self):
        self.beats += 1
        if self.fails:
            raise RuntimeError("a fault of ours")


@pytest.fixture
def at():
    return At()


def test_it_beats_every_second_and_is_not_late(at):
    at.reactor.pump([BEAT_EVERY_S] * 5)
    assert (at.beats, at.pulse.lag_s) == (6, 0.0)


def test_a_reactor_that_was_held_up_is_late_for_ten_beats(at):
    at.reactor.advance(4.0)
    assert at.pulse.lag_s == 3.0
    at.reactor.pump([BEAT_EVERY_S] * (REMEMBERED_BEATS - 1))
    assert at.pulse.lag_s == 3.0
    at.reactor.advance(BEAT_EVERY_S)
    assert at.pulse.lag_s == 0.0


def test_a_beat_that_fails_is_logged_and_the_next_one_comes(at, events):
    at.fails = True
    at.reactor.pump([BEAT_EVERY_S] * 2)
    assert at.beats == 3
    assert any("log_failure" in event for event in events)


def test_it_stops(at):
    at.pulse.stop()
    assert at.reactor.getDelayedCalls() == []
