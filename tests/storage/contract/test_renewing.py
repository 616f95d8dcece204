"""Renewing: what waits or was rejected is due again, and what lies there is wanted again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kmp_smsd.storage import Store, renewing
from kmp_smsd.storage.outbox import OutboxRow, Postpone, Reject
from kmp_smsd.storage.wanting import Want, want
from tests.storage.conftest import OpenStore
from tests.storage.stock import (
    HOUR,
    NOW,
    A,
    B,
    bind_many,
    confirm_all,
    due,
    import_keys,
    outbox,
    register,
    reject_all,
    row_at,
    settle,
    sync,
    versions,
    wanted,
)

DAY = 24 * HOUR


def test_retry_makes_waiting_rows_due_and_rejected_ones_wanted_again(store: Store, row: OutboxRow) -> None:
    settle(store, sync(B, "k2"))
    (other,) = [one for one in due(store) if one.mdn == B]
    store.outbox.settle("metering", [Reject(row, NOW, "who?"), Postpone(other, NOW + DAY, "busy")], NOW)
    assert due(store, now=NOW + 1) == []
    assert store.renewing.retry(NOW + 1, platform="other") == 0
    rejected = row_at(store, A)
    assert store.renewing.retry(NOW + 1, mdn=B) == 1
    assert row_at(store, A) == rejected
    assert [(one.mdn, one.version) for one in due(store, now=NOW + 1)] == [(B, other.version)]
    assert store.renewing.retry(NOW + 1) == 1
    assert {(one.mdn, one.version) for one in due(store, now=NOW + 1)} == {(B, other.version), (A, NOW + 1)}


def test_retry_leaves_alone_what_has_no_platform(store: Store) -> None:
    register(store, A, "meter")
    import_keys(store, "k1")
    settle(store, sync(A, "k1"), now=NOW + HOUR)  # by a clock that was set back since
    (waiting,) = outbox(store)
    assert (waiting["platform"], store.renewing.retry(NOW)) == ("", 0)
    assert outbox(store) == [waiting]


def test_each_rejected_row_may_want_two_in_a_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "STEP_ROWS", 4)
    bind_many(store, 4)
    reject_all(store)
    sizes: list[int] = []
    monkeypatch.setattr(
        renewing, "want", lambda connection, wants, now: sizes.append(len(wants)) or want(connection, wants, now)
    )
    assert store.renewing.retry(NOW + 1) == 4
    assert sizes == [2, 2, 0]


def test_what_its_platform_rejects_again_meanwhile_is_wanted_again_once(
    store: Store, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "STEP_ROWS", 4)
    bind_many(store, 5)
    reject_all(store)
    dispatch, transaction, steps = open_store(), store._database.transaction, itertools.count(1)

    @contextmanager
    def rejected_after() -> Iterator[Any]:
        with transaction() as connection:
            yield connection
        assert next(steps) < 10
        reject_all(dispatch, now=NOW + 1)

    monkeypatch.setattr(store._database, "transaction", rejected_after)
    assert store.renewing.retry(NOW + 1) == 5


@pytest.mark.parametrize(
    "later", [lambda n: n, lambda n: -n, lambda _: 0, lambda n: n > 3], ids=["one by one", "back", "at once", "some"]
)
def test_what_its_platform_puts_off_again_meanwhile_is_hastened_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, later: Callable[[int], int]
) -> None:
    monkeypatch.setattr(renewing, "STEP_ROWS", 2)
    bind_many(store, 5)
    put_off(store, later)
    everything = {row["mdn"] for row in outbox(store)}
    hastened: list[str] = []
    for rows in store.renewing.hasten(["metering"], NOW):
        assert rows <= 2
        hastened += [row.mdn for row in due(store)]
        assert len(hastened) <= 5
        put_off(store, later)
    assert set(hastened) == everything


@pytest.mark.usefixtures("row")
def test_again_wants_what_a_platform_rejected_since_then(store: Store) -> None:
    reject_all(store, now=NOW + 5)
    settle(store, sync(B, "k2"))
    reject_all(store, now=NOW + 6)
    store.renewing.again("other", NOW, NOW + 7)
    store.renewing.again("metering", NOW + 7, NOW + 7)
    assert due(store, now=NOW + 7) == []
    store.renewing.again("metering", NOW + 6, NOW + 7)
    assert [(one.mdn, one.version) for one in due(store, now=NOW + 7)] == [(B, NOW + 7)]


@pytest.mark.usefixtures("row", "small_steps")
def test_again_wants_any_number_of_rows_in_steps(store: Store) -> None:
    register(store, A, *[f"app{number}" for number in range(5)])
    store.routes.set({f"app{number}": "metering" for number in range(5)})
    import_keys(store, *[f"key{number}" for number in range(5)])
    settle(store, *[sync(A, f"key{number}", f"app{number}") for number in range(5)])
    reject_all(store)
    store.renewing.again("metering", NOW, NOW + 1)
    assert len(due(store, now=NOW + 1)) == 6


@pytest.mark.usefixtures("row")
def test_want_again_wants_everything_of_a_platform_at_new_versions(store: Store) -> None:
    register(store, A, "tracker")
    settle(store, sync(A, "k2", "tracker"))  # no platform serves it: it waits
    confirm_all(store)
    before = wanted(store)
    assert store.renewing.want_again(NOW + 1, platform="other") == 0
    assert store.renewing.want_again(NOW + 1, platform="metering") == 1
    assert store.renewing.want_again(NOW + 2) == 2
    assert wanted(store) == before
    assert set(versions(store).values()) == {NOW + 2}
    assert [(one.mdn, one.version) for one in due(store, now=NOW + 2)] == [(A, NOW + 2)]


def test_a_walk_does_not_come_to_what_is_wanted_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "STEP_ROWS", 4)
    bind_many(store, 5)
    met: list[str] = []

    def wanted_elsewhere(_: Any, rows: list[Any]) -> list[Want]:
        met.extend(platform for _, _, platform, _ in rows)
        assert len(met) < 10
        return [Want(subscriber, app, None, f"beside {platform}") for subscriber, app, platform, _ in rows]

    assert list(store.renewing.walk(wanted_elsewhere, NOW)) == [2, 2, 1]  # rows that may each come to two wants
    assert met == ["metering"] * 5


def put_off(store: Store, later: Callable[[int], int]) -> None:
    """The platform is slow: what is due now is tried in an hour, and `later` by the number of its subscriber."""
    store.outbox.settle(
        "metering", [Postpone(row, NOW + HOUR + later(row.subscriber), "disk full") for row in due(store)], NOW
    )
