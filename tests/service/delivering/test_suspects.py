"""A delivery with which the platform goes down, or with which we fail, is put off so that the others pass."""

from __future__ import annotations

import pytest

from kmp_smsd.channels.protocol import ChannelDown, Confirmed
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.outbox import Outbox
from tests.service.delivering.stage import answering, raising
from tests.service.vendor import make_due, mdn
from tests.storage.stock import NOW


def test_poison_delivery_is_put_off_so_that_the_others_pass(at):
    """The platform goes down with the third, whatever it was sent before."""
    make_due(at.store, 1, 2, 3, 4, 5)
    at.answer = answering(n3=lambda _: ChannelDown("crashed"))
    at.run()
    assert at.confirmed(1, 2)
    assert at.row(3)["try_at"] == NOW
    ended = at.run(after_ms=60_000)
    assert at.batches == [[mdn(3)]]
    assert (at.row(3)["error"], at.row(3)["try_at"]) == ("crashed", at.now + 5000)
    at.now += ended.wait_ms
    at.run()
    assert at.confirmed(4, 5)
    assert not at.confirmed(3)


def test_poison_delivery_is_found_though_its_mdn_is_the_first_and_others_wait_for_longer(at):
    """Else it went first each time, and of the others few passed for every failure."""
    at.room = 4
    for number in range(2, 14):
        make_due(at.store, number, now=NOW - 1000 + number)
    make_due(at.store, 1)
    at.answer = answering(n1=lambda _: ChannelDown("crashed"))
    at.run()
    assert at.batches == [[mdn(1), mdn(2), mdn(3), mdn(4)]]
    for _ in range(4):
        at.run(after_ms=60_000)
    assert at.batches == [[mdn(13)], [mdn(1)]]
    assert at.row(1)["error"] == "crashed"
    assert at.confirmed(*range(2, 14))


def test_poison_delivery_is_found_though_others_whose_mdns_come_before_it_keep_coming(at):
    at.answer = answering(n30=lambda _: ChannelDown("crashed"))
    at.room = 2
    make_due(at.store, 30, 40)
    for number in range(1, 9, 2):
        make_due(at.store, number, number + 1, now=at.now + 1)
        at.run(after_ms=60_000)
    assert at.row(30)["error"] == "crashed"
    at.run(after_ms=1000)
    assert at.confirmed(40, *range(1, 9))


def test_poison_delivery_is_found_soon_though_nobody_who_goes_with_it_is_answered(at):
    """The platform takes all that has come together, and goes down before it answers any of it."""
    make_due(at.store, *range(1, 41))
    at.answer = lambda one: ChannelDown("crashed") if mdn(40) in at.batches[-1] else Confirmed(one)
    gone = []
    for _ in range(4):
        at.run(after_ms=60_000)
        gone.append([len(batch) for batch in at.batches])
    assert gone == [[40], [1, 2, 4, 8, 16, 9], [1, 2, 4, 2], [1, 1]]
    assert at.row(40)["error"] == "crashed"
    assert at.confirmed(*range(1, 40))


def test_row_is_no_suspect_when_the_platform_was_never_reached(at):
    make_due(at.store, 1)
    at.unreachable = ChannelDown("refused")
    for _ in range(5):
        at.run()
    assert (at.row(1)["try_at"], at.row(1)["attempts"]) == (NOW, 0)


def test_row_that_was_on_the_road_when_the_store_failed_is_no_suspect_later(at, monkeypatch):
    make_due(at.store, 1, 2)

    def answer(delivery):
        at.elapsed_s += 1.0
        return Confirmed(delivery)

    at.answer = answer
    at.run()
    make_due(at.store, 3, 4)
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.outbox, "settle", raising(StoreUnavailable("disk full")))
        at.run()
    at.unreachable = ChannelDown("refused")
    at.run()
    assert at.row(4)["attempts"] == 0


@pytest.mark.parametrize("where", ["preparing", "answering"])
def test_row_with_which_we_fail_is_put_off_so_that_the_others_pass(at, monkeypatch, where):
    make_due(at.store, 1, 2, 3)
    if where == "answering":
        at.answer = answering(n1=lambda _: RuntimeError("a fault of ours"))
    else:
        prepare = at.preparer.prepare
        monkeypatch.setattr(
            at.preparer, "prepare", lambda row, sealed: 1 / 0 if row.mdn == mdn(1) else prepare(row, sealed)
        )
    for _ in range(6):
        at.run(after_ms=60_000)
    assert at.confirmed(2, 3)
    assert "a fault of ours" in at.row(1)["error"]


def test_row_of_an_earlier_try_is_no_suspect_of_a_fault_before_the_next(at, monkeypatch):
    make_due(at.store, 1)
    at.answer = lambda _: ChannelDown("crashed")
    at.run()
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.outbox, "due", raising(RuntimeError("a fault of ours")))
        at.run(after_ms=5000)
    assert (at.row(1)["attempts"], at.row(1)["error"]) == (1, "crashed")


def test_row_that_was_not_sent_before_we_connected_is_no_suspect_of_a_fault_after_it(at, monkeypatch):
    make_due(at.store, 1)
    due = Outbox.due

    def failing(*asked):
        if at.channels:
            raise RuntimeError("a fault of ours")
        return due(*asked)

    monkeypatch.setattr(Outbox, "due", failing)
    assert at.run().error is not None
    assert at.row(1)["attempts"] == 0
