"""The outbox: desired state, versions, and what dispatch tells of its deliveries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kmp_smsd.storage import Store
from kmp_smsd.storage import outbox as outbox_module
from kmp_smsd.storage.due import has_come
from kmp_smsd.storage.outbox import Confirm, Outbid, OutboxRow, Postpone, Reject, Settlement
from kmp_smsd.storage.wanting import Want, want
from tests.storage.stock import (
    HOUR,
    MOVING,
    NOW,
    A,
    B,
    C,
    bind_many,
    bound,
    confirm_all,
    due,
    import_keys,
    outbox,
    register,
    row_at,
    settle,
    sync,
    versions,
)

DAY = 24 * HOUR


def test_due_row_has_all_that_a_delivery_needs(row: OutboxRow) -> None:
    assert (row.mdn, row.app_id, row.version, row.attempts) == (A, "meter", NOW, 0)
    assert row.key is not None
    assert (row.key.key_id, row.key.algorithm, row.key.kcv, row.key.app_id, row.key.state) == (
        "k1", "aes", "BE7ED6", None, "live",
    )  # fmt: skip
    assert (row.key.nonce, row.key.ciphertext) == (b"n" * 12, b"sealed k1")
    assert "sealed" not in repr(row)


def test_rows_come_due_in_the_order_of_their_time(store: Store, row: OutboxRow) -> None:
    settle(store, sync(B, "k2"), now=NOW + 1)
    store.outbox.settle("metering", [Postpone(row, NOW + 10, "busy")], NOW + 1)
    assert [one.mdn for one in due(store, now=NOW + 9)] == [B]
    assert [one.mdn for one in due(store, now=NOW + 10)] == [B, A]
    assert [one.mdn for one in store.outbox.due("metering", NOW + 10, 1)] == [B]
    assert store.outbox.next_try("metering", NOW) == NOW + 1
    assert due(store, "other", NOW + 10) == []
    assert store.outbox.next_try("other", NOW) is None


def test_rows_of_one_time_come_by_mdn(store: Store) -> None:
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2", "k3")
    for mdn in (C, A, B):  # so that neither order of coming is theirs
        register(store, mdn, "meter")
    settle(store, sync(B, "k1"), sync(C, "k2"), sync(A, "k3"))
    assert [one.mdn for one in due(store)] == [A, B, C]


def test_try_more_than_a_day_ahead_was_set_before_the_clock_was_set_back_and_is_due(
    store: Store, row: OutboxRow
) -> None:
    settle(store, sync(B, "k2"), now=NOW + 5)
    store.outbox.settle("metering", [Postpone(row, NOW + DAY, "busy")], NOW)
    assert due(store, now=NOW) == []
    assert store.outbox.next_try("metering", NOW) == NOW + 5
    assert [one.mdn for one in due(store, now=NOW - 1)] == [A]
    assert has_come(store.outbox.next_try("metering", NOW - 1) or 0, NOW - 1)
    assert [one.mdn for one in due(store, now=NOW - 2 * DAY)] == [B, A]
    assert [one.mdn for one in store.outbox.due("metering", NOW - 2 * DAY, 1)] == [B]


@pytest.mark.parametrize(
    ("try_at", "come"),
    [(NOW - 30 * DAY, True), (NOW, True), (NOW + 1, False), (NOW + DAY, False), (NOW + DAY + 1, True)],
)
def test_dispatch_and_the_outbox_agree_on_what_is_due(store: Store, row: OutboxRow, try_at: int, come: bool) -> None:
    store.outbox.settle("metering", [Postpone(row, try_at, "busy")], NOW)
    assert has_come(try_at, NOW) is come
    assert bool(due(store, now=NOW)) is come
    assert store.outbox.next_try("metering", NOW) == try_at


def test_confirmed_row_is_not_due_any_more(store: Store, row: OutboxRow) -> None:
    store.outbox.settle("metering", [Postpone(row, NOW, "busy")], NOW)
    store.outbox.settle("metering", [Confirm(row)], NOW)
    assert due(store, now=NOW + DAY) == []
    after = row_at(store, A)
    assert (after["confirmed_version"], after["attempts"], after["error"]) == (row.version, 0, None)


def test_postponed_row_counts_its_attempts_and_says_why(store: Store, row: OutboxRow) -> None:
    for attempt in range(1, 4):
        store.outbox.settle("metering", [Postpone(row, NOW + attempt, "no space")], NOW)
        after = row_at(store, A)
        assert (after["attempts"], after["error"], after["try_at"]) == (attempt, "no space", NOW + attempt)


def test_rejected_row_rests(store: Store, row: OutboxRow) -> None:
    store.outbox.settle("metering", [Reject(row, NOW, "who?")], NOW)
    assert due(store, now=NOW + DAY) == []
    assert store.outbox.next_try("metering", NOW) is None
    ((shown,),) = store.outbox.unconfirmed()
    assert (shown["rejected_version"], shown["error"], shown["attempts"]) == (row.version, "who?", 1)


def test_keys_wanted_at_a_platform_and_withdrawals_that_it_has_not_confirmed_are_counted(
    store: Store, row: OutboxRow
) -> None:
    settle(store, sync(B, "k2"))
    store.outbox.settle("metering", [Confirm(row)], NOW)
    assert store.outbox.count_held("metering") == (2, 0)  # confirmed or not
    store.bindings.withdraw(A, "meter", NOW + 1)
    assert store.outbox.count_held("metering") == (1, 1)
    confirm_all(store, "metering", now=NOW + 2)
    assert store.outbox.count_held("metering") == (1, 0)


def test_old_confirmation_leaves_the_new_wish_due(store: Store, row: OutboxRow) -> None:
    store.bindings.withdraw(A, "meter", NOW + 1)
    store.outbox.settle("metering", [Confirm(row)], NOW + 2)
    (withdraw,) = due(store, now=NOW + 2)
    assert withdraw.key is None
    assert row_at(store, A)["confirmed_version"] == row.version < withdraw.version


def test_confirmations_in_the_wrong_order_never_go_back(store: Store, row: OutboxRow) -> None:
    store.bindings.withdraw(A, "meter", NOW + 1)
    (withdraw,) = due(store, now=NOW + 2)
    store.outbox.settle("metering", [Confirm(withdraw)], NOW + 2)
    store.outbox.settle("metering", [Confirm(row)], NOW + 3)
    assert row_at(store, A)["confirmed_version"] == withdraw.version
    assert due(store, now=NOW + 3) == []


def test_old_rejection_and_old_postponement_are_ignored(store: Store, row: OutboxRow) -> None:
    store.bindings.withdraw(A, "meter", NOW + 1)
    before = row_at(store, A)
    store.outbox.settle("metering", [Reject(row, NOW + 2, "who?"), Postpone(row, NOW + DAY, "busy")], NOW + 2)
    assert row_at(store, A) == before


def test_new_wish_waits_for_nothing_that_the_old_one_met(store: Store, row: OutboxRow) -> None:
    store.outbox.settle("metering", [Postpone(row, NOW + HOUR, "busy")], NOW)
    store.bindings.withdraw(A, "meter", NOW + 1)
    shown = row_at(store, A)
    assert (shown["try_at"], shown["attempts"], shown["error"]) == (NOW + 1, 0, None)


def test_version_is_confirmed_or_rejected_and_never_both(store: Store, row: OutboxRow) -> None:
    """Delivered twice, because the first answer was lost: the answers may differ."""
    store.outbox.settle("metering", [Reject(row, NOW, "who?")], NOW)
    store.outbox.settle("metering", [Confirm(row)], NOW)
    store.outbox.settle("metering", [Reject(row, NOW, "who?")], NOW)
    (platform,) = [one for one in store.platforms.listing() if one["platform"] == "metering"]
    assert (platform["due"], platform["rejected"]) == (0, 0)
    assert store.renewing.retry(NOW + 1) == 0


def test_outbid_row_is_wanted_above_what_the_platform_holds(store: Store, row: OutboxRow) -> None:
    store.outbox.settle("metering", [Outbid(row, NOW + 5 * HOUR, NOW + 3, "holds more")], NOW + 1)
    assert due(store, now=NOW + 2) == []
    (again,) = due(store, now=NOW + 3)
    assert again.version == NOW + 5 * HOUR + 1
    assert again.key == row.key
    shown = row_at(store, A)  # a platform may outbid us for ever
    assert (shown["attempts"], shown["error"], shown["wanted_at"]) == (row.attempts + 1, "holds more", NOW)
    store.bindings.withdraw(A, "meter", NOW + 3)
    (withdraw,) = due(store, now=NOW + 3)
    assert withdraw.version == NOW + 5 * HOUR + 2


def test_outbid_row_that_changed_meanwhile_is_left_alone(store: Store, row: OutboxRow) -> None:
    store.bindings.withdraw(A, "meter", NOW + 1)
    before = row_at(store, A)
    store.outbox.settle("metering", [Outbid(row, NOW + 5 * HOUR, NOW + 3, "holds more")], NOW + 2)
    assert row_at(store, A) == before


@pytest.fixture
def moved(store: Store, row: OutboxRow) -> OutboxRow:
    """The withdrawal at the old platform of an app that moved to a new one; both names lead to one store."""
    store.outbox.settle("metering", [Confirm(row)], NOW)
    store.routes.set({"meter": "new"})
    sum(store.routes.move(NOW + 1))
    (withdraw,) = due(store, now=NOW + 1)
    assert withdraw.key is None
    return withdraw


def test_withdrawal_does_not_outbid_the_key_that_the_same_store_got_by_another_name(
    store: Store, moved: OutboxRow
) -> None:
    (bind,) = due(store, "new", NOW + 1)
    store.outbox.settle("new", [Confirm(bind)], NOW + 2)
    store.outbox.settle("metering", [Outbid(moved, bind.version, NOW + 3, "holds more")], NOW + 3)
    old, new = row_at(store, A, platform="metering"), row_at(store, A, platform="new")
    assert (old["key_id"], old["confirmed_version"]) == (None, old["wanted_version"])
    assert (new["key_id"], new["confirmed_version"], new["wanted_version"]) == ("k1", bind.version, bind.version)


def test_key_stays_above_a_withdrawal_that_had_to_be_raised(store: Store, moved: OutboxRow) -> None:
    (bind,) = due(store, "new", NOW + 1)
    store.outbox.settle("metering", [Outbid(moved, NOW + 5 * HOUR, NOW + 3, "holds more")], NOW + 3)
    (withdraw,), (again,) = due(store, now=NOW + 3), due(store, "new", NOW + 3)
    assert bind.version < NOW + 5 * HOUR < withdraw.version < again.version
    assert again.key == bind.key


def test_resync_of_the_old_platform_takes_no_key_from_the_new_one(store: Store, moved: OutboxRow) -> None:
    store.renewing.want_again(NOW + 5, platform="metering")
    (withdraw,), (bind,) = due(store, now=NOW + 5), due(store, "new", NOW + 5)
    assert moved.version < withdraw.version < bind.version


def test_versions_only_grow_although_the_clock_goes_back(open_store: Any) -> None:
    store = open_store(MOVING)
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    seen = [0]
    for step, now in enumerate([NOW, NOW - DAY, NOW - 2 * DAY, NOW + 1, NOW - 3 * DAY]):
        settle(store, sync(A, ("k1", "k2")[step % 2], received_at=now), now=now)
        store.routes.set({"meter": f"platform{step}"})
        sum(store.routes.move(now))
        if bound(store):
            store.bindings.withdraw(A, "meter", now)
        seen.append(versions(store)[A, "meter"])
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    "late",
    [
        Confirm,
        lambda row: Postpone(row, NOW + HOUR, "busy"),
        lambda row: Reject(row, NOW, "no room"),
        lambda row: Outbid(row, NOW + HOUR, NOW + HOUR, "stale"),
    ],
    ids=["confirmed", "put off", "rejected", "stale"],
)
def test_what_comes_of_a_row_that_was_dropped_is_not_that_of_the_one_that_has_its_number(
    store: Store, row: OutboxRow, late: Callable[[OutboxRow], Settlement]
) -> None:
    with store._database.transaction() as connection:
        connection.execute("DELETE FROM outbox")
    settle(store, sync(B, "k2"))
    (before,) = due(store)
    assert (before.id, before.version) == (row.id, row.version)
    store.outbox.settle("metering", [late(row)], NOW)
    assert due(store) == [before]


def test_moved_key_s_withdrawal_and_binding_both_leave(open_store: Any) -> None:
    store = open_store(MOVING)
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1")
    for mdn in (A, B):
        register(store, mdn, "meter")
    settle(store, sync(A, "k1"))
    confirm_all(store)
    settle(store, sync(B, "k1"), now=NOW + 1)
    assert {(one.mdn, one.key.key_id if one.key else None) for one in due(store, now=NOW + 1)} == {(A, None), (B, "k1")}


@pytest.mark.usefixtures("row")
def test_rows_are_listed_in_pages(store: Store) -> None:
    register(store, A, *[f"app{number}" for number in range(5)])
    import_keys(store, *[f"key{number}" for number in range(5)])
    settle(store, *[sync(A, f"key{number}", f"app{number}") for number in range(5)])
    apps: list[str] = []
    after = 0
    while page := store.outbox.listing(mdn=A, everything=True, after=after, limit=2):
        apps += [one["app_id"] for one in page]
        after = page[-1]["id"]
    assert apps == ["meter", "app0", "app1", "app2", "app3", "app4"]
    assert len(outbox(store)) == 6


def test_what_is_unconfirmed_is_listed_by_platform_and_next_try_and_then_what_was_rejected(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "READ_ROWS", 2)
    apps = [f"app{number}" for number in range(9)]
    register(store, A, *apps, "elsewhere", "nowhere")
    store.routes.set({"elsewhere": "fleet", **dict.fromkeys(apps, "metering")})
    import_keys(store, *[f"of-{app}" for app in (*apps, "elsewhere", "nowhere")])
    settle(store, *[sync(A, f"of-{app}", app) for app in (*apps, "elsewhere", "nowhere")])
    rows = {row.app_id: row for row in due(store)}
    store.outbox.settle(
        "metering",
        [
            Confirm(rows["app8"]),
            *[Reject(rows[app], NOW, "no") for app in ("app7", "app0", "app4")],
            Postpone(rows["app1"], NOW + 9, "busy"),
            Postpone(rows["app2"], NOW + 5, "busy"),
        ],
        NOW,
    )
    due_there, rejected = ["app3", "app5", "app6", "app2", "app1"], ["app0", "app4", "app7"]
    pages = list(store.outbox.unconfirmed())
    assert [row["app_id"] for page in pages for row in page] == ["nowhere", "elsewhere", *due_there, *rejected]
    assert max(map(len, pages)) == 2
    assert [[row["app_id"] for row in page] for page in store.outbox.unconfirmed("fleet")] == [["elsewhere"]]
    assert [[row["app_id"] for row in page] for page in store.outbox.unconfirmed("")] == [["nowhere"]]


def test_what_is_unconfirmed_is_listed_once_though_it_is_put_off_or_hurried_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind_many(store, 6)
    monkeypatch.setattr(outbox_module, "READ_ROWS", 2)
    rows = due(store)
    store.outbox.settle("metering", [Postpone(row, NOW + number, "busy") for number, row in enumerate(rows)], NOW)
    pages = store.outbox.unconfirmed()
    listed = [row["id"] for row in next(pages)]
    assert listed == [rows[0].id, rows[1].id]
    store.outbox.settle("metering", [Postpone(rows[0], NOW + 9, "busy"), Confirm(rows[2]), Confirm(rows[3])], NOW)
    store.renewing.retry(NOW - 1)
    assert [[row["id"] for row in page] for page in pages] == [[rows[4].id, rows[5].id]]


def test_number_that_comes_again_at_another_platform_is_not_listed_for_this_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind_many(store, 3)
    monkeypatch.setattr(outbox_module, "READ_ROWS", 2)
    last = max(due(store), key=lambda row: row.id)
    pages = store.outbox.unconfirmed("metering")
    assert len(next(pages)) == 2
    with store._database.transaction() as connection:
        connection.execute("DELETE FROM outbox WHERE id = ?", (last.id,))
    store.routes.set({"tracker": "fleet"})
    import_keys(store, "k-fleet")
    register(store, A, "tracker")
    settle(store, sync(A, "k-fleet", "tracker"))
    assert row_at(store, A, "tracker")["id"] == last.id
    assert list(pages) == []


def test_rows_that_are_outbid_are_wanted_again_in_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "STEP_ROWS", 4)
    bind_many(store, 5)
    rows, transaction, wants = due(store), store._database.transaction, [0]

    @contextmanager
    def counted() -> Iterator[Any]:
        wants.append(0)
        with transaction() as connection:
            yield connection

    def count(connection: Any, asked: list[Want], now: int) -> None:
        wants[-1] += len(asked)
        want(connection, asked, now)

    monkeypatch.setattr(store._database, "transaction", counted)
    monkeypatch.setattr(outbox_module, "want", count)
    store.outbox.settle("metering", [Outbid(row, row.version + 5, NOW, "stale") for row in rows], NOW)
    assert (sum(wants), max(wants)) == (5, 2)
    assert all(one.version > row.version + 5 for one, row in zip(due(store), rows, strict=True))
