"""Stopping, aborting and closing, in the middle of whatever goes on."""

from __future__ import annotations

import threading

import pytest
from twisted.logger import LogLevel

from kmp_smsd.channels.protocol import ChannelDown, Confirmed
from kmp_smsd.service.delivering import Ended
from tests.service.vendor import make_due, mdn
from tests.storage.stock import NOW


def test_stop_ends_a_run_after_its_present_deliveries(at):
    make_due(at.store, 1, 2)

    def answer(delivery):
        at.deliverer.stop()
        make_due(at.store, 3)
        return Confirmed(delivery)

    at.answer = answer
    assert at.run() == Ended(None)
    assert at.confirmed(1, 2)
    assert at.batches == [[mdn(1), mdn(2)]]
    assert at.run() == Ended(None)
    assert at.batches == []


def test_abort_ends_a_run_in_mid_delivery(at, events):
    make_due(at.store, 1, 2, 3)

    def answer(delivery):
        if delivery.mdn == mdn(2):
            thread = threading.Thread(target=at.deliverer.abort)
            thread.start()
            thread.join()
        return Confirmed(delivery)

    at.answer = answer
    assert at.run().error == "closed under it"
    assert at.confirmed(1)
    assert not at.confirmed(2)
    assert at.row(2)["try_at"] == NOW
    assert at.platform()["last_error"] is None  # the platform did nothing wrong
    assert [event for event in events if event["log_level"] >= LogLevel.warn] == []


def test_abort_while_a_connection_is_made_sends_nothing_over_it(at):
    make_due(at.store, 1)
    open_channel = at.deliverer._open_channel

    def aborted(cancel):
        channel = open_channel(cancel)
        at.deliverer.abort()
        return channel

    at.deliverer._open_channel = aborted
    assert at.run() == Ended(None)
    assert at.deliveries == []
    at.deliverer.close()
    assert at.channels[0].closed


@pytest.mark.parametrize("end", ["stop", "abort"])
def test_stop_ends_an_attempt_to_connect(at, end):
    make_due(at.store, 1)
    requested = []

    def connecting(cancel):
        requested.append(cancel.requested)
        getattr(at.deliverer, end)()
        requested.append(cancel.requested)
        raise ChannelDown("connecting was cancelled")

    at.deliverer._open_channel = connecting
    at.run()
    assert requested == [False, True]
    assert at.platform()["last_error"] is None


def test_abort_without_a_connection_is_nothing(at):
    at.deliverer.abort()
    at.deliverer.close()
    at.deliverer.close()


def test_idle_connection_is_used_again_until_it_is_closed(at):
    make_due(at.store, 1)
    at.run()
    assert at.deliverer.is_open
    make_due(at.store, 2)
    at.run()
    assert len(at.channels) == 1
    at.deliverer.close_channel()
    assert at.channels[0].closed
    assert not at.deliverer.is_open
    make_due(at.store, 3)
    at.run()
    assert len(at.channels) == 2


def test_closing_closes_connection_and_store(at):
    make_due(at.store, 1)
    at.run()
    at.deliverer.close()
    assert at.channels[0].closed
    with pytest.raises(Exception, match="closed"):
        at.mine.journal.tallies()


def test_a_deliverer_that_was_stopped_goes_on_again(at):
    make_due(at.store, 1)
    at.deliverer.stop()
    assert at.run() == Ended(None)
    assert not at.confirmed(1)
    at.deliverer.again()
    at.run()
    assert at.confirmed(1)
