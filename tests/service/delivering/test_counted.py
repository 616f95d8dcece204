"""What is counted, and what is known of a platform once it was seen."""

from __future__ import annotations

from kmp_smsd.channels.protocol import ChannelDown, Confirmed, Rejected
from kmp_smsd.service import judging
from tests.service.delivering.stage import HOUR_MS, ChannelByHand
from tests.service.vendor import make_due, mdn


def test_every_answer_is_counted_with_the_time_that_it_took(at):
    for number in (1, 2, 3):
        make_due(at.store, number)

    def answer(delivery):
        at.elapsed_s += 0.5
        return Rejected(delivery, "no") if delivery.mdn == mdn(2) else Confirmed(delivery)

    at.answer, at.room = answer, 1
    at.run()
    counts = at.deliverer.counts
    assert (counts.confirmed, counts.rejections, counts.failures, counts.pushes) == (2, 1, 0, 3)
    assert counts.push_s == 1.5


def test_a_run_that_breaks_off_is_a_failure_but_not_one_that_was_stopped(at):
    make_due(at.store, 1)
    at.unreachable = ChannelDown("no road")
    at.run()
    assert at.deliverer.counts.failures == 1
    at.deliverer.stop()
    at.run(after_ms=HOUR_MS)
    assert at.deliverer.counts.failures == 1


def test_who_takes_a_platform_over_goes_on_counting(at):
    at.deliverer.counts = counts = judging.Counts(confirmed=1)
    make_due(at.store, 1)
    at.run()
    assert counts.confirmed == 2


def test_the_end_of_our_certificate_is_known_once_it_was_shown(at, monkeypatch):
    monkeypatch.setattr(ChannelByHand, "certificate_ends_at", 1_800_000_000.0)
    make_due(at.store, 1)
    assert at.deliverer.certificate_ends_at is None
    at.run()
    assert at.deliverer.certificate_ends_at == 1_800_000_000.0


def test_the_state_is_known_once_it_was_read(at):
    assert at.deliverer.state is None
    make_due(at.store, 1)
    at.run()
    assert at.deliverer.state.last_success_at == at.now
