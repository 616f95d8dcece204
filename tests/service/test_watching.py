from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kmp_smsd.service.watching import Watch
from tests.service.by_hand import alarms


def test_look_that_fails_is_logged_every_ten_seconds_and_taken_again_each_time(events):
    clock = Clock()
    looks = []

    def look():
        looks.append(clock.seconds())
        raise RuntimeError("a fault of ours")

    watching = Watch(look, clock)
    watching.start(0.5)
    clock.pump([0.5] * 49)
    watching.stop()
    assert len(looks) == 50
    assert len(alarms(events)) == 3


def test_end_of_a_watch_waits_for_the_look_that_is_under_way():
    clock = Clock()
    looking, ended = Deferred(), []
    watching = Watch(lambda: looking, clock)
    watching.start(0.5)
    watching.stop().addCallback(ended.append)
    clock.advance(1.0)
    assert ended == []
    looking.callback(None)
    assert len(ended) == 1
    assert not watching.running


def test_end_of_a_watch_that_never_began_is_there_at_once():
    ended = []
    Watch(lambda: None, Clock()).stop().addCallback(ended.append)
    assert ended == [None]
