"""Rows that must not be sent, and how short a time a key is in clear."""

from __future__ import annotations

import gc

import pytest

from kmp_smsd.channels.protocol import Bind, Confirmed, Withdraw
from kmp_smsd.service.delivering import Ended
from kmp_smsd.service.preparing import Unsendable
from tests.service.delivering.stage import HOUR_MS
from tests.service.vendor import make_due

# Rows that must not be sent


@pytest.mark.parametrize(
    ("app_id", "tampered", "why"),
    [
        ("alarm", "SELECT 1", "app alarm is not among the apps of platform metering"),
        ("meter", "UPDATE keys SET state = 'suspended' WHERE key_id = 'KEY-1'", "key KEY-1 is suspended"),
        ("meter", "UPDATE keys SET state = 'compromised' WHERE key_id = 'KEY-1'", "key KEY-1 is compromised"),
        ("meter", "UPDATE keys SET app = 'alarm' WHERE key_id = 'KEY-1'", "reserved for app alarm"),
        ("meter", "UPDATE keys SET app = 'meter' WHERE key_id = 'KEY-1'", "not as it was imported"),
        ("meter", "UPDATE keys SET ciphertext = x'00' WHERE key_id = 'KEY-1'", "not as it was imported"),
        ("meter", "UPDATE keys SET ciphertext = NULL WHERE key_id = 'KEY-1'", "destroyed"),
        ("meter", "UPDATE keys SET kcv = '000000' WHERE key_id = 'KEY-1'", "KCV of key KEY-1"),
        ("meter", "UPDATE data_keys SET sealed = x'00'", "was not sealed to master key"),
        (
            "meter",
            "UPDATE outbox SET key = (SELECT id FROM keys WHERE key_id = 'KEY-98')",
            "key KEY-98 is reserved for app alarm",
        ),
    ],
)
def test_what_must_not_be_sent_shows_why_and_waits_an_hour(at, app_id, tampered, why):
    make_due(at.store, 1, app_id=app_id)
    at.tamper(tampered)
    assert at.run() == Ended(None)
    assert (at.deliveries, at.channels) == ([], [])
    assert why in at.row(1, app_id)["error"]
    assert at.row(1, app_id)["try_at"] == at.now + HOUR_MS


def test_reservation_that_was_taken_away_in_the_database_is_noticed(at):
    at.tamper("UPDATE keys SET app = NULL WHERE key_id = 'KEY-98'")
    at.tamper("UPDATE keys SET key_id = 'KEY-0' WHERE key_id = 'KEY-1'")
    at.tamper("UPDATE keys SET key_id = 'KEY-1' WHERE key_id = 'KEY-98'")
    make_due(at.store, 1)
    at.run()
    assert at.deliveries == []


def test_row_that_cannot_be_sent_takes_no_neighbour(at):
    make_due(at.store, 1, 2, 3)
    at.tamper("UPDATE keys SET ciphertext = x'00' WHERE key_id = 'KEY-2'")
    at.run()
    assert at.confirmed(1, 3)
    assert at.row(2)["error"]


def test_stop_is_heeded_among_rows_that_cannot_be_sent(at, monkeypatch):
    def prepare(_row, _sealed):
        at.deliverer.stop()
        raise Unsendable("revoked")

    make_due(at.store, 1, 2, 3)
    monkeypatch.setattr(at.preparer, "prepare", prepare)
    at.run()
    assert [at.row(number)["error"] for number in (1, 2, 3)] == ["revoked", None, None]


def test_key_that_is_resumed_is_sent(at):
    make_due(at.store, 1)
    at.store.keys.suspend("KEY-1", "stolen")
    at.run()
    assert at.deliveries == []
    at.store.keys.resume("KEY-1", at.now)
    at.run()
    assert at.confirmed(1)


def test_key_that_is_revoked_while_we_connect_is_not_sent(at, monkeypatch):
    make_due(at.store, 1)
    opened = at._open_channel

    def slowly(cancel):
        at.store.keys.revoke("KEY-1", "stolen", at.now, compromised=True)
        return opened(cancel)

    monkeypatch.setattr(at.deliverer, "_open_channel", slowly)
    at.run()
    assert [type(delivery) for delivery in at.deliveries] == [Withdraw]


# Keys in clear


def test_key_is_in_clear_only_when_there_is_room_for_it_on_the_road(at):
    make_due(at.store, 11)
    at.run()  # connects
    made = []
    prepare = at.preparer.prepare
    at.preparer.prepare = lambda row, sealed: made.append(row.mdn) or prepare(row, sealed)
    make_due(at.store, *range(1, 11))
    at.room, ahead = 2, []

    def answer(delivery):
        ahead.append(len(made) - len(at.deliveries))
        return Confirmed(delivery)

    at.answer = answer
    at.run()
    assert at.confirmed(*range(1, 12))
    assert max(ahead) == 1  # of the two that there is room for


def test_no_key_is_in_clear_while_we_connect(at, monkeypatch):
    make_due(at.store, 1)
    opened, in_clear = at._open_channel, []

    def binds():
        gc.collect()
        return sum(isinstance(one, Bind) for one in gc.get_objects())

    def looking(cancel):
        in_clear.append(binds())
        return opened(cancel)

    monkeypatch.setattr(at.deliverer, "_open_channel", looking)
    before = binds()  # of other tests
    at.run()
    assert (in_clear, at.confirmed(1)) == ([before], True)
