"""Pauses of one platform, drains of all, and the word for how each is served."""

from __future__ import annotations

import pytest

from kmp_smsd.service.dispatch_worker import STOP_WITHIN_S
from kmp_smsd.storage.platforms import PlatformState

# Pauses and drains


def test_paused_platform_begins_nothing_until_it_is_resumed(start):
    at = start(2)
    at.dispatcher.workers.pause("p1")
    at.make_due(1, 2)
    at.look()
    assert at.begun() == ["p2"]
    assert at.words() == {"p1": "paused", "p2": "delivering"}
    at.dispatcher.workers.resume("p1")
    at.look()
    assert at.begun() == ["p2", "p1"]
    assert at.by_name["p1"].done == ["stop", "again"]


def test_pause_ends_the_run_under_way_in_good_order_and_closes_the_connection(start):
    at = start(1, due=[1])
    deliverer = at.by_name["p1"]
    at.dispatcher.workers.pause("p1")
    assert deliverer.done == ["stop"]
    at.end("p1")
    at.pool.run()
    assert deliverer.done == ["stop", "close_channel"]
    at.look(3)
    assert at.begun() == []


def test_run_that_does_not_end_after_a_pause_is_ended_by_force(start):
    at = start(1, due=[1])
    at.dispatcher.workers.pause("p1")
    at.reactor.advance(STOP_WITHIN_S)
    assert at.by_name["p1"].done == ["stop", "abort"]


def test_platform_that_is_resumed_while_its_run_ends_goes_on_after_that(start):
    at = start(1, due=[1])
    at.dispatcher.workers.pause("p1")
    at.dispatcher.workers.resume("p1")
    assert at.by_name["p1"].done == ["stop"]
    at.end("p1")
    assert at.by_name["p1"].done == ["stop", "again"]
    at.look()
    assert at.begun() == ["p1"]


def test_drained_dispatcher_stands_still_and_goes_on(start):
    at = start(2, due=[1])
    drained = []
    at.dispatcher.workers.drain().addCallback(drained.append)
    at.make_due(2)
    at.look()
    assert (at.begun(), drained) == (["p1"], [])
    assert at.words() == {"p1": "draining", "p2": "drained"}
    at.end("p1")
    assert len(drained) == 1
    at.pool.run()
    assert at.words() == {"p1": "drained", "p2": "drained"}
    at.look(3)
    assert at.begun() == []
    at.dispatcher.workers.go_on()
    at.look()
    assert at.begun() == ["p2", "p1"]


def test_paused_platform_rests_on_after_a_drain(start):
    at = start(1)
    at.dispatcher.workers.pause("p1")
    at.dispatcher.workers.drain()
    at.dispatcher.workers.go_on()
    at.make_due(1)
    at.look()
    assert at.begun() == []


# How platforms are


def test_words_tell_how_each_platform_is_served(start):
    at = start(3, due=[1])
    at.make_due(2, after_ms=60_000)
    at.look()
    assert at.words() == {"p1": "delivering", "p2": "waiting", "p3": "idle"}
    served = {one.name: one for one in at.dispatcher.workers.served()}
    assert served["p2"].next_try_at == pytest.approx(at.now / 1000 + 60, abs=1)
    assert served["p1"].next_try_at is None
    at.by_name["p3"].state = PlatformState("p3", held_back=True)
    assert at.words()["p3"] == "held back after rejections"


def test_since_is_when_the_word_changed(start):
    at = start(1)
    began = at.dispatcher.workers.served()[0].since
    at.reactor.pass_time(5)
    assert at.dispatcher.workers.served()[0].since == began
    at.make_due(1)
    at.look()
    assert at.dispatcher.workers.served()[0].since == at._wall()
