"""A platform that is down: when it is tried again, and what people see."""

from __future__ import annotations

import pytest

from kmp_smsd.channels.protocol import ChannelDown, Confirmed, Rejected, TryLater
from kmp_smsd.service.delivering import Ended
from kmp_smsd.service.judging import Patience
from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import alarms
from tests.service.delivering.stage import HOUR_MS, answering, raising
from tests.service.vendor import make_due, mdn
from tests.storage.stock import NOW


def test_peer_that_cannot_be_trusted_is_an_alarm(at, events):
    make_due(at.store, 1)
    at.answer = lambda delivery: Rejected(delivery, "wrong receipt", alarm=True)
    at.run()
    assert len(alarms(events)) == 1


def test_what_was_answered_before_the_platform_went_down_is_settled(at):
    make_due(at.store, 1, 2, 3, 4)
    at.answer = answering(
        n2=lambda delivery: Rejected(delivery, "no"), n3=lambda _: ChannelDown("connection lost"), n4=pytest.fail
    )
    ended = at.run()
    assert ended == Ended("connection lost", 5000)
    assert at.channels[0].closed
    assert not at.deliverer.is_open
    assert at.confirmed(1)
    assert at.rejected(2)
    assert [at.row(number)["try_at"] for number in (3, 4)] == [NOW, NOW]  # several may be to blame: both are due
    at.answer = Confirmed
    assert at.run(after_ms=5000) == Ended(None)
    assert at.batches == [[mdn(3)], [mdn(4)]]
    assert len(at.channels) == 2


def test_back_off_of_a_platform_grows_is_capped_and_ends_with_a_confirmation(at):
    make_due(at.store, 1, 2)
    at.unreachable = ChannelDown("refused")
    waits = []
    for _ in range(10):
        assert not at.deliverer.is_open
        waits.append(at.run().wait_ms / 1000)
        assert at.deliverer.failing
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    at.unreachable = None
    assert at.run() == Ended(None)
    assert at.confirmed(1, 2)
    assert not at.deliverer.failing
    make_due(at.store, 3)
    at.answer = lambda _: ChannelDown("lost")
    assert at.run().wait_ms == 5000


@pytest.mark.parametrize("kind", [TryLater, Rejected])
def test_platform_that_is_back_is_up_whatever_it_answers(at, events, kind):
    make_due(at.store, *range(1, 9))
    at.unreachable = ChannelDown("no route to host")
    for _ in range(4):
        at.run(after_ms=HOUR_MS)
    at.unreachable = None
    at.answer = lambda delivery: kind(delivery, "maintenance")
    at.run(after_ms=HOUR_MS)
    assert [len(batch) for batch in at.batches] == [1, 2, 4, 1]  # as after any outage
    assert not at.deliverer.failing
    assert at.deliverer.state.last_error is None
    at.run(after_ms=HOUR_MS)
    shown = at.platform()
    assert (shown["last_error"], shown["last_error_at"], shown["next_try_at"]) == (None, None, None)
    assert [event["event"] for event in events].count("platform_up") == 1


def test_what_a_platform_puts_off_is_counted(at):
    make_due(at.store, 1, 2, 3)
    at.answer = answering(
        n1=lambda delivery: TryLater(delivery, "busy"),
        n2=lambda delivery: (
            TryLater(delivery, "stale", held_version=NOW + 1) if delivery.version == NOW else Confirmed(delivery)
        ),
    )
    at.run()
    counts = at.deliverer.counts
    assert (counts.confirmed, counts.postponed, counts.rejections, counts.failures, counts.pushes) == (2, 2, 0, 0, 4)


def test_stop_while_it_connects_is_no_failure_of_the_platform(at, events):
    make_due(at.store, 1)

    def cancelled(_cancel):
        at.deliverer.stop()
        raise ChannelDown("connecting was cancelled")

    open_channel, at.deliverer._open_channel = at.deliverer._open_channel, cancelled
    at.run()
    assert not at.deliverer.failing
    at.deliverer.again()
    at.deliverer._open_channel = open_channel
    at.run()
    assert at.confirmed(1)
    assert at.deliverer.counts.failures == 0
    assert events == []


def test_failed_try_is_shown_to_people(at):
    make_due(at.store, 1)
    at.unreachable = ChannelDown("connection refused")
    at.run()
    shown = at.platform()
    assert (shown["last_error"], shown["last_error_at"], shown["next_try_at"]) == (
        "connection refused",
        at.now,
        at.now + 5000,
    )
    at.unreachable = None
    at.run(after_ms=5000)
    shown = at.platform()
    assert (shown["last_error"], shown["last_success_at"], shown["next_try_at"]) == (None, at.now, None)


def test_failed_try_that_cannot_be_shown_is_a_failed_try(at, monkeypatch):
    make_due(at.store, 1)
    at.run()
    make_due(at.store, 2)
    at.deliverer.close_channel()
    at.unreachable = ChannelDown("refused")
    monkeypatch.setattr(at.mine.platforms, "report", raising(StoreUnavailable("disk full")))
    assert at.run() == Ended("refused", 5000)


def test_success_after_success_is_written_once_in_ten_seconds(at):
    for number, after_ms, seen in [(1, 0, 0), (2, 9_999, 0), (3, 1, 10_000)]:
        make_due(at.store, number)
        at.run(after_ms=after_ms)
        assert at.platform()["last_success_at"] == NOW + seen


def test_wait_is_jittered_between_a_half_and_all_of_its_step():
    waits = [Patience(retry_min_s=4.0, retry_max_s=60.0, jitter=lambda part=part: part).wait_ms(1) for part in (0, 1)]
    assert waits == [4000, 8000]


def test_wait_after_a_million_attempts_is_the_longest():
    assert Patience(retry_min_s=5.0, retry_max_s=900.0, jitter=lambda: 1.0).wait_ms(1_000_000) == 900_000
