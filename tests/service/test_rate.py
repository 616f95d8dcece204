from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.service.rate import Bucket, Buckets


def taken(bucket, tries, now):
    return sum(bucket.take(now) for _ in range(tries))


def test_burst_is_taken_at_once_and_no_more():
    assert taken(Bucket(5, 1.0, 0.0), 10, 0.0) == 5


def test_bucket_fills_with_time():
    bucket = Bucket(5, 0.5, 100.0)
    taken(bucket, 5, 100.0)
    assert not bucket.take(101.9)
    assert bucket.take(102.0)
    assert not bucket.take(102.0)
    assert taken(bucket, 10, 108.0) == 3


def test_refused_tries_cost_nothing():
    bucket = Bucket(1, 1.0, 0.0)
    bucket.take(0.0)
    for tenth in range(1, 10):
        assert not bucket.take(tenth / 10)
    assert bucket.take(1.01)


def test_long_silence_saves_up_no_more_than_a_burst():
    bucket = Bucket(3, 1.0, 0.0)
    taken(bucket, 3, 0.0)
    assert taken(bucket, 10, 86_400.0) == 3


def test_burst_below_one_never_gives():
    assert taken(Bucket(0.5, 1.0, 0.0), 3, 100.0) == 0


def test_each_name_has_a_bucket_of_its_own():
    buckets = Buckets(2, 1.0)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 0.0)


def test_bucket_is_full_when_its_name_is_first_heard():
    buckets = Buckets(2, 0.001)
    assert [buckets.take("late", 1_000.0) for _ in range(3)] == [True, True, False]


def test_who_comes_too_often_is_not_forgotten_for_that():
    buckets = Buckets(1, 0.001, limit=3)
    assert buckets.take("often", 0.0)
    for number in range(100):
        assert buckets.take(str(number), 0.0)
        assert not buckets.take("often", 0.0)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60))
def test_the_last_names_are_remembered_and_memory_is_bounded(names):
    buckets = Buckets(1, 0.001, limit=3)
    last = []
    for name in names:
        taken = buckets.take(name, 0.0)
        assert not (taken and name in last[-3:])
        last = [*(other for other in last if other != name), name]
        assert len(buckets) <= 6


def test_who_was_away_for_long_is_forgotten_and_begins_full_again():
    buckets = Buckets(1, 0.001, limit=3)
    assert all(buckets.take(name, 0.0) for name in "abcdefg")
    assert buckets.take("a", 0.0)


def test_by_default_fifty_thousand_names_are_remembered():
    buckets = Buckets(1, 1.0)
    for number in range(200_500):
        buckets.take(str(number), 0.0)
    assert len(buckets) <= 100_000
    assert not any(buckets.take(str(number), 0.0) for number in range(150_500, 200_500))


def test_the_garbage_collector_has_nothing_to_do_with_many_names():
    buckets = Buckets(1, 1.0)
    before = len(gc.get_objects())
    for number in range(10_000):
        buckets.take(str(number), 0.0)
    gc.collect()
    assert len(gc.get_objects()) - before < 1_000


def test_a_name_saves_up_no_more_than_a_burst():
    buckets = Buckets(3, 1.0)
    taken_of_it = [buckets.take("a", now) for now in [0.0] * 3 + [86_400.0] * 10]
    assert taken_of_it == [True] * 6 + [False] * 7


@pytest.mark.parametrize(("per_s", "burst"), [(0.1, 1), (7 / 60, 10), (0.3, 3)])
def test_a_token_may_be_taken_in_the_moment_in_which_it_is_there(per_s, burst):
    buckets = Buckets(burst, per_s)
    assert all(buckets.take("a", 1_000.1) for _ in range(burst))
    assert not buckets.take("a", 1_000.1)
    assert all(buckets.take("a", 1_000.1 + n / per_s) for n in range(1, 50))


# Numbers that are exact in binary, so that both reckon the same.
@given(st.integers(1, 5), st.sampled_from([0.25, 1.0, 4.0]), st.lists(st.integers(0, 12), max_size=40))
def test_many_buckets_give_as_much_as_one_alone(burst, per_s, pauses):
    alone, buckets = Bucket(burst, per_s, 0.0), Buckets(burst, per_s)
    now = 0.0
    for pause in pauses:
        now += pause / 4
        assert buckets.take("a", now) == alone.take(now)
