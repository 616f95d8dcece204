from __future__ import annotations

from kmp_smsd.service.rates import SAMPLE_EVERY_S, Rates, RatesByName


def run(rates, per_s, seconds, count=0, now=0.0):
    """Count so much each second for so long; where it ends."""
    for _ in range(int(seconds)):
        now, count = now + 1, count + per_s
        rates.sample(count, now)
    return count, now


def test_nothing_counted_is_no_rate():
    assert Rates(7, 100.0).per_s(7, 500.0) == {"1m": 0.0, "5m": 0.0, "15m": 0.0}


def test_a_steady_rate_is_the_same_in_every_window_and_from_the_first_minute_on():
    for seconds in (30, 90, 2000):
        rates = Rates(0, 0.0)
        assert rates.per_s(*run(rates, 10, seconds)) == {"1m": 10.0, "5m": 10.0, "15m": 10.0}


def test_what_is_over_leaves_the_windows_one_after_the_other():
    rates = Rates(0, 0.0)
    count, now = run(rates, 10, 900)
    count, now = run(rates, 0, 120, count, now)
    assert rates.per_s(count, now) == {"1m": 0.0, "5m": 6.0, "15m": 8.667}


def test_a_burst_right_after_the_start_is_no_rate_per_millisecond():
    assert Rates(0, 0.0).per_s(5, 0.001)["1m"] == 5.0


def test_only_fifteen_minutes_are_remembered():
    rates = Rates(0, 0.0)
    run(rates, 1, 5000)
    assert len(rates._samples) == 900 / SAMPLE_EVERY_S + 1


def test_counter_that_is_gone_begins_anew_where_it_comes_back():
    rates = RatesByName()
    rates.sample({"north": 0, "south": 0}, 0.0)
    rates.sample({"north": 600}, 60.0)
    assert rates.per_s("north", 600, 60.0)["1m"] == 10.0
    assert rates.per_s("south", 600, 60.0)["1m"] == 0.0


def test_each_counter_has_windows_of_its_own():
    rates = RatesByName()
    for now in range(0, 1000, 5):
        rates.sample({"north": 10 * now, "south": min(10 * now, 3000)}, now)
    assert rates.per_s("north", 10_000, 1000.0) == {"1m": 10.0, "5m": 10.0, "15m": 10.0}
    assert rates.per_s("south", 3000, 1000.0) == {"1m": 0.0, "5m": 0.0, "15m": 2.222}
