"""Replies: due once the platform has confirmed what is wanted, taken once, bounded, and forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.reply import Reply, ReplyResult, ReplyState, ReplyTo
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store, replies
from kmp_smsd.storage.outbox import Confirm, Outbid
from kmp_smsd.storage.replying import REDELIVERED_MS
from tests.storage.stock import (
    HOUR,
    MOVING,
    NOW,
    A,
    B,
    confirm_all,
    due,
    import_keys,
    open_holds,
    register,
    reject_all,
    settle,
    sync,
)  # fmt: skip

DAY = 24 * HOUR
ROOM = {"north": 10}
TO = ReplyTo(1, 1, "+8613900000001", 0, 1, "10690001", 5000, 8080)


def asked(mdn: str = A, key_id: str = "k1", **fields: Any) -> SyncRequest:
    """A sync request whose terminal is to be told."""
    return replace(sync(mdn, key_id), reply_to=TO, **fields)


def take(store: Store, now: int = NOW, room: dict[str, int] | None = None) -> list[Reply]:
    return store.replies.exchange([], ROOM if room is None else room, now)


def tell(store: Store, number: int, state: ReplyState, status: int | None = None, now: int = NOW) -> list[Reply]:
    return store.replies.exchange([ReplyResult(number, state, status)], {}, now)


def states(store: Store) -> list[tuple[str, str]]:
    return [(row["mdn"], row["state"]) for row in store.replies.listing(limit=1_000)]


@pytest.fixture
def ready(store: Store) -> Store:
    """Two registered MDNs and three keys, one platform."""
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2", "k3")
    register(store, A, "meter")
    register(store, B, "meter")
    return store


def test_reply_is_due_once_the_platform_has_confirmed(ready):
    settle(ready, asked())
    assert take(ready) == []
    confirm_all(ready)
    (reply,) = take(ready)
    assert (reply.link, reply.key_id, reply.app_id, reply.to) == ("north", "k1", "meter", TO)
    assert reply.expires_at == NOW + HOUR
    assert reply.text == b"K1:ok:k1:meter"


def test_nothing_is_said_where_the_request_does_not_say_where_to(ready):
    settle(ready, sync(A, "k1"))
    confirm_all(ready)
    assert take(ready) == []
    assert states(ready) == []


@pytest.mark.parametrize("request_", [asked(A, "k9"), asked("8613900000009")])
def test_what_is_not_bound_earns_no_reply(ready, request_):
    settle(ready, request_)
    assert states(ready) == []


def test_reply_is_taken_once(ready):
    settle(ready, asked())
    confirm_all(ready)
    assert len(take(ready)) == 1
    assert take(ready) == []
    assert states(ready) == [(A, "sending")]
    tell(ready, 1, ReplyState.SENT)
    assert take(ready) == []
    assert states(ready) == [(A, "sent")]


def test_reply_that_was_being_sent_before_a_crash_is_not_sent_again(ready, open_store):
    settle(ready, asked(), asked(B, "k2"))
    confirm_all(ready)
    assert len(take(ready, room={"north": 1})) == 1
    after_the_crash = open_store()
    after_the_crash.replies.recover(NOW + 1)
    assert states(after_the_crash) == [(A, "unknown"), (B, "waiting")]
    assert [reply.key_id for reply in take(after_the_crash, NOW + 1)] == ["k2"]
    tell(after_the_crash, 1, ReplyState.WAITING)
    assert take(after_the_crash) == []


def test_reply_that_left_before_the_clock_was_set_back_is_given_up_too(ready, open_store):
    settle(ready, asked())
    confirm_all(ready)
    assert len(take(ready)) == 1
    after_the_crash = open_store()
    after_the_crash.replies.recover(NOW - DAY)
    assert states(after_the_crash) == [(A, "unknown")]
    assert ready._database.rows("SELECT reply_to FROM replies") == [(None,)]


def test_all_that_was_being_sent_is_given_up_however_much_it_is(ready, monkeypatch):
    monkeypatch.setattr(replies, "STEP_ROWS", 1)
    settle(ready, asked(), asked(B, "k2"))
    confirm_all(ready)
    assert len(take(ready)) == 2
    ready.replies.recover(NOW)
    assert states(ready) == [(A, "unknown"), (B, "unknown")]


def test_number_that_was_given_up_keeps_no_waiting_reply_and_what_it_was_told_counts(ready):
    settle(ready, asked())
    confirm_all(ready)
    (reply,) = take(ready)
    tell(ready, reply.number, ReplyState.SENT, 0)
    settle(ready, asked(received_at=NOW + HOUR), asked(B, "k2"), now=NOW + HOUR)
    assert states(ready) == [(A, "sent"), (A, "waiting"), (B, "waiting")]
    ready.renumbering.renumber(A, "8613900000009", NOW + HOUR)
    assert states(ready) == [(A, "sent"), (B, "waiting")]
    assert ready.replies.sent_in_a_day("north", NOW + HOUR) == 1


def test_reply_that_was_certainly_not_taken_is_taken_again(ready):
    settle(ready, asked())
    confirm_all(ready)
    take(ready)
    tell(ready, 1, ReplyState.WAITING, 0x58)
    assert states(ready) == [(A, "waiting")]
    assert ready.replies.listing(limit=1)[0]["command_status"] == 0x58
    assert len(take(ready, NOW + 60_000)) == 1
    tell(ready, 1, ReplyState.SENT, 0)
    assert states(ready) == [(A, "sent")]


def test_reply_that_was_not_taken_gives_way_to_a_newer_one(ready):
    settle(ready, asked())
    confirm_all(ready)
    take(ready)
    settle(ready, asked(), now=NOW + HOUR)
    tell(ready, 1, ReplyState.WAITING, 0x58, now=NOW + HOUR)
    assert states(ready) == [(A, "waiting")]
    assert [reply.number for reply in take(ready, NOW + HOUR)] == [2]


def test_reply_that_was_not_taken_gives_way_to_none_of_another_app_or_subscriber(ready):
    register(ready, A, "tracker")
    settle(ready, asked(app_id="meter"), asked(key_id="k2", app_id="tracker"), asked(B, "k3"))
    confirm_all(ready)
    assert [reply.app_id for reply in take(ready, room={"north": 1})] == ["meter"]
    tell(ready, 1, ReplyState.WAITING)
    assert states(ready) == [(A, "waiting"), (A, "waiting"), (B, "waiting")]


@pytest.mark.parametrize("state", [ReplyState.REFUSED, ReplyState.UNKNOWN, ReplyState.SENT])
def test_ended_reply_is_not_taken_again_and_keeps_no_address(ready, state):
    settle(ready, asked())
    confirm_all(ready)
    take(ready)
    tell(ready, 1, state, 0x45)
    tell(ready, 1, ReplyState.WAITING)
    assert take(ready) == []
    assert states(ready) == [(A, state.value)]
    assert ready._database.rows("SELECT reply_to FROM replies") == [(None,)]


def test_repeated_message_is_answered_again_once_the_key_stands_at_the_platform(ready):
    settle(ready, asked())
    confirm_all(ready)
    take(ready)
    tell(ready, 1, ReplyState.SENT)
    settle(ready, asked(received_at=NOW + HOUR), now=NOW + HOUR)
    assert [reply.key_id for reply in take(ready, NOW + HOUR)] == ["k1"]


def test_messages_repeated_before_the_receipt_are_answered_once_at_the_last_link(ready):
    settle(ready, asked(), asked(), replace(asked(), link="south"))
    confirm_all(ready)
    assert take(ready) == []
    assert [reply.link for reply in take(ready, room={"south": 5})] == ["south"]
    assert len(states(ready)) == 1


def test_terminal_that_was_replaced_before_the_receipt_is_told_nothing(open_store):
    store = open_store(MOVING)
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1")
    register(store, A, "meter")
    register(store, B, "meter")
    settle(store, asked(A, "k1"))
    settle(store, asked(B, "k1", received_at=NOW + 1), now=NOW + 1)
    confirm_all(store, now=NOW + 1)
    assert [reply.number for reply in take(store, NOW + 1)] == [2]
    assert states(store) == [(A, "waiting"), (B, "sending")]
    assert take(store, NOW + HOUR) == []
    assert states(store) == [(A, "expired"), (B, "sending")]


def test_withdrawn_key_is_not_confirmed_to_its_terminal(ready):
    settle(ready, asked())
    confirm_all(ready)
    ready.bindings.withdraw(A, "meter", NOW + 1)
    assert take(ready, NOW + 1) == []
    confirm_all(ready, now=NOW + 1)
    assert take(ready, NOW + 1) == []


def test_rejected_delivery_is_told_once_it_is_confirmed_later(ready):
    settle(ready, asked())
    reject_all(ready)
    assert take(ready) == []
    ready.renewing.retry(NOW + 1)
    assert take(ready, NOW + 1) == []
    confirm_all(ready, now=NOW + 1)
    assert len(take(ready, NOW + 1)) == 1


def test_key_confirmed_at_a_higher_version_or_at_another_platform_is_told(ready):
    settle(ready, asked(), asked(B, "k2"))
    ready.outbox.settle("metering", [Outbid(one, NOW + 50, NOW, "stale") for one in due(ready)], NOW)
    assert take(ready) == []
    ready.routes.set({"meter": "other"})
    assert sum(ready.routes.move(NOW)) > 0
    confirm_all(ready, "metering")
    assert take(ready) == []
    confirm_all(ready, "other", NOW + 100)
    assert [reply.key_id for reply in take(ready, NOW + 100)] == ["k1", "k2"]


def test_reply_expires(ready):
    settle(ready, asked())
    confirm_all(ready)
    assert take(ready, NOW + HOUR) == []
    assert states(ready) == [(A, "expired")]
    assert ready._database.rows("SELECT reply_to FROM replies") == [(None,)]


def test_reply_is_not_taken_once_it_has_expired_however_many_have(ready, monkeypatch):
    monkeypatch.setattr(replies, "TAKEN_MAX", 1)
    settle(ready, asked(), asked(B, "k2", link="south"))
    confirm_all(ready)
    assert take(ready, NOW + HOUR, room={"south": 1}) == []
    assert states(ready) == [(A, "expired"), (B, "waiting")]


def test_expiry_and_budget_are_the_policy_s(open_store):
    store = open_store(SyncPolicy(reply_expire_s=5, mdn_replies_a_day=2))
    import_keys(store, "k1")
    register(store, A, "meter")
    register(store, B, "meter")
    store.routes.set({"meter": "metering"})
    for day in (0, 1):
        at = NOW + day * DAY
        for number in range(4):
            then = at + number * HOUR
            settle(store, asked(), now=then)
            confirm_all(store, now=then)
            taken = take(store, then)
            assert [reply.expires_at for reply in taken] == ([then + 5_000] if number < 2 else [])
            for reply in taken:
                tell(store, reply.number, ReplyState.SENT, now=then)
        store.replies.expire(at + 10)


def test_replies_to_several_apps_count_together_and_unsent_ones_too(open_store):
    store = open_store(SyncPolicy(mdn_replies_a_day=2))
    import_keys(store, "k1", "k2", "k3")
    register(store, A, "one", "two", "three")
    for key, app in (("k1", "one"), ("k2", "two"), ("k3", "three")):
        settle(store, asked(A, key, app_id=app))
    assert [row["app_id"] for row in store.replies.listing(limit=10)] == ["one", "two"]
    settle(store, asked(A, "k1", app_id="one"))
    assert len(states(store)) == 2


def test_reply_of_the_day_before_to_another_app_counts_no_longer(open_store):
    store = open_store(SyncPolicy(mdn_replies_a_day=1))
    store.routes.set({"one": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "one", "two")
    settle(store, asked(A, "k1", app_id="one"))
    confirm_all(store)
    (reply,) = take(store)
    tell(store, reply.number, ReplyState.SENT)
    settle(store, asked(A, "k2", app_id="two", received_at=NOW + DAY), now=NOW + DAY)
    assert [(row["app_id"], row["state"]) for row in store.replies.listing(limit=10)] == [
        ("one", "sent"),
        ("two", "waiting"),
    ]


def test_link_gets_what_it_has_room_for_and_others_wait(ready):
    import_keys(ready, *[f"n{number}" for number in range(5)])
    for number in range(5):
        register(ready, f"861390000001{number}", "meter")
        link = "south" if number == 4 else "north"
        settle(ready, replace(asked(f"861390000001{number}", f"n{number}"), link=link))
    confirm_all(ready)
    assert [reply.key_id for reply in take(ready, room={"north": 3})] == ["n0", "n1", "n2"]
    assert [reply.key_id for reply in take(ready, room={"north": 3, "south": 1})] == ["n3", "n4"]


def test_due_reply_is_found_behind_many_that_are_not(ready, monkeypatch):
    monkeypatch.setattr(replies, "LOOKED_THROUGH", 2)
    import_keys(ready, *[f"n{number}" for number in range(7)])
    for number in range(7):
        register(ready, f"861390000001{number}", "meter")
        settle(ready, asked(f"861390000001{number}", f"n{number}"))
    rows = {row.mdn: row for row in due(ready)}
    for mdn in ("8613900000015", "8613900000011"):
        ready.outbox.settle("metering", [Confirm(rows[mdn])], NOW)
    found = [[reply.key_id for reply in take(ready, room={"north": 1})] for _ in range(8)]
    assert sorted(one for each in found for one in each) == ["n1", "n5"]


def test_request_that_waited_is_answered_when_it_is_bound(ready):
    settle(ready, asked("8613900000003", "k3"))
    register(ready, "8613900000003", "meter", now=NOW + 1)
    assert ready.settle_again(NOW + 1) == ["bound"]
    confirm_all(ready, now=NOW + 1)
    (reply,) = take(ready, NOW + 1)
    assert (reply.key_id, reply.to) == ("k3", TO)


def test_approved_request_is_answered_and_its_hold_keeps_no_address(ready):
    settle(ready, sync(A, "k1"), asked(B, "k1"), asked(B, "k1"))
    (hold,) = open_holds(ready)
    ready.holds.approve(hold["hold"], "adam")
    assert ready.settle_again(NOW + 1) == ["moved"]
    confirm_all(ready, now=NOW + 1)
    (reply,) = take(ready, NOW + 1)
    assert (reply.key_id, reply.to) == ("k1", TO)
    assert ready._database.rows("SELECT reply_to FROM holds") == [(None,)]


@pytest.mark.parametrize("end", ["refuse", "revoke", "bound"])
def test_hold_that_ends_in_any_way_keeps_no_address(ready, end):
    settle(ready, sync(A, "k1"), asked(B, "k1"))
    (hold,) = open_holds(ready)
    assert ready._database.rows("SELECT reply_to FROM holds") != [(None,)]
    if end == "refuse":
        ready.holds.refuse(hold["hold"], "eve", NOW)
    elif end == "revoke":
        ready.keys.revoke("k1", None, NOW, compromised=True)
    else:
        ready.bindings.withdraw(A, "meter", NOW + 1)
        settle(ready, sync(B, "k1", received_at=NOW + 2), now=NOW + 2)
    assert open_holds(ready) == []
    assert ready._database.rows("SELECT reply_to FROM holds") == [(None,)]


def test_reply_that_nobody_has_in_hand_is_given_up_and_what_has_ended_is_forgotten(ready):
    settle(ready, asked())
    confirm_all(ready)
    take(ready)
    ready.replies.sweep(NOW + HOUR)
    assert states(ready) == [(A, "sending")]
    ready.replies.sweep(NOW + HOUR + 1)
    assert states(ready) == [(A, "unknown")]
    assert ready.replies.expire(NOW + HOUR + 1) == 0
    assert states(ready) == [(A, "unknown")]
    assert ready.replies.expire(NOW + HOUR + 2) == 1
    assert states(ready) == []


def test_replies_of_a_restored_backup_are_not_sent_a_second_time(ready, back_end, open_store):
    settle(ready, asked(), asked(B, "k2"))
    confirm_all(ready)
    back_end.back_up("copy")
    assert len(take(ready)) == 2
    ready.close()
    back_end.restore("copy", NOW + 1)
    restored = open_store()
    confirm_all(restored, now=NOW + 1)
    assert take(restored, NOW + 1) == []
    assert states(restored) == [(A, "unknown"), (B, "unknown")]


def test_polling_writes_nothing_where_nothing_is_due(ready, open_store):
    settle(ready, asked())
    other = open_store()
    before = other.data_version()
    take(ready)
    ready.replies.recover(NOW)
    ready.replies.sweep(NOW)
    assert other.data_version() == before


@pytest.mark.parametrize("left", [False, True])
def test_erased_subscriber_is_told_nothing_and_leaves_no_address(ready, left):
    """Not even where the answer of the SMSC comes after the erasure, and meets another reply."""
    settle(ready, asked())
    confirm_all(ready)
    if left:
        take(ready)
    ready.erasing.erase(A, NOW + 1)
    assert states(ready) == []
    settle(ready, asked(B, "k2"), now=NOW + 2)
    confirm_all(ready, now=NOW + 2)
    (other,) = take(ready, NOW + 2)
    assert other.number != 1
    tell(ready, 1, ReplyState.WAITING, 0x58, NOW + 2)
    assert take(ready, NOW + 2) == []
    assert states(ready) == [(B, "sending")]


def test_hold_of_an_erased_subscriber_keeps_no_address(ready):
    settle(ready, sync(A, "k1"), asked(B, "k1"))
    ready.erasing.erase(B, NOW + 1)
    assert ready._database.rows("SELECT reply_to FROM holds") == [(None,)]


def test_message_that_the_smsc_sends_once_more_is_told_once(ready: Store) -> None:
    """Its answer was lost, or came too late although it was settled."""
    settle(ready, asked())
    confirm_all(ready)
    (first,) = take(ready)
    tell(ready, first.number, ReplyState.SENT)
    for late in (3_000, REDELIVERED_MS - 1):
        settle(ready, asked(received_at=NOW + late), now=NOW + late)
        assert take(ready, NOW + late) == []
    settle(ready, asked(received_at=NOW + REDELIVERED_MS), now=NOW + REDELIVERED_MS)
    assert len(take(ready, NOW + REDELIVERED_MS)) == 1


@pytest.mark.parametrize(("key_id", "app_id"), [("k2", "one"), ("k1", "two")], ids=["another key", "another app"])
def test_what_was_told_just_now_of_another_key_or_app_is_no_answer(open_store: Any, key_id: str, app_id: str) -> None:
    store = open_store(MOVING)
    store.routes.set({"one": "metering", "two": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "one", "two")
    settle(store, asked(A, "k1", app_id="one"))
    confirm_all(store)
    (first,) = take(store)
    tell(store, first.number, ReplyState.SENT)
    settle(store, sync(A, key_id, app_id=app_id, received_at=NOW + 1), now=NOW + 1)  # which asks for no reply
    settle(store, asked(A, key_id, app_id=app_id, received_at=NOW + 2), now=NOW + 2)
    confirm_all(store, now=NOW + 2)
    assert [(reply.key_id, reply.app_id) for reply in take(store, NOW + 2)] == [(key_id, app_id)]


def test_newer_reply_is_not_told_what_became_of_the_one_whose_place_it_takes(ready: Store) -> None:
    settle(ready, asked())
    confirm_all(ready)
    take(ready)
    tell(ready, 1, ReplyState.WAITING, 0x58)
    settle(ready, asked(received_at=NOW + HOUR), now=NOW + HOUR)
    ((status, expires_at),) = [(row["command_status"], row["expires_at"]) for row in ready.replies.listing(limit=10)]
    assert (status, expires_at) == (None, NOW + 2 * HOUR)
