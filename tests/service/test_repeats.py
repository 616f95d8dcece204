from __future__ import annotations

from kmp_smsd.service.repeats import Repeats


def test_each_reason_is_said_every_ten_seconds_though_they_alternate():
    repeats = Repeats()
    said = [now for now in range(25) if repeats.worth_saying(("disk full", "locked")[now % 2], now)]
    assert said == [0, 1, 10, 11, 20, 21]


def test_what_was_said_long_ago_is_forgotten():
    repeats = Repeats()
    for now in range(1_000):
        repeats.worth_saying(f"fault {now}", now)
    assert len(repeats._said_at) == 10
