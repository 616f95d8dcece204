from __future__ import annotations

from twisted.internet.task import Clock

from kmp_smsd.service.watching import watch
from tests.service.by_hand import alarms


def test_look_that_fails_is_logged_every_ten_seconds_and_taken_again_each_time(events):
    clock = Clock()
    looks = []

    def look():
        looks.append(clock.seconds())
        raise RuntimeError("a fault of ours")

    watching = watch(look, clock)
    watching.start(0.5)
    clock.pump([0.5] * 49)
    watching.stop()
    assert len(looks) == 50
    assert len(alarms(events)) == 3
