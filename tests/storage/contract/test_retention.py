"""What is old goes, in steps; what something still needs stays."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import Unfit
from kmp_smsd.storage import Store, retention
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.retention import Step
from tests.storage.stock import (
    HOUR,
    LATER,
    MOVING,
    NOW,
    A,
    B,
    C,
    bound,
    confirm_all,
    import_keys,
    journalled,
    open_holds,
    register,
    settle,
    sync,
)

OpenStore = Callable[..., Store]


@pytest.fixture
def moving(open_store: OpenStore) -> Store:
    """A store where conflicting requests move bindings: A had k1, then B has it, then A has k2."""
    store = open_store(MOVING)
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2", "k3")
    for mdn in (A, B, C):
        register(store, mdn, "meter")
    assert settle(store, sync(A, "k1"), sync(B, "k1", received_at=NOW + 1)) == [Outcome.BOUND, Outcome.MOVED]
    return store


def ended(store: Store) -> list[tuple[str, str]]:
    return [
        (row["mdn"], row["key_id"]) for mdn in (A, B, C) for row in store.bindings.of(mdn) if row["state"] != "bound"
    ]


def swept(step: Callable[[int], Step], before: int) -> int:
    """How many rows steps delete, until one says that it is done and one more finds nothing."""
    deleted = 0
    for _ in range(100):
        taken = step(before)
        deleted += taken.deleted
        if taken.done and not taken.deleted:
            return deleted
    raise AssertionError("never done")


def test_entries_older_than_a_time_go_and_younger_ones_stay(store: Store) -> None:
    register(store, A, "meter")
    for hour in range(5):
        settle(store, sync(A, "k1"), now=NOW + hour * HOUR)
    assert store.retention.journal(NOW + 2 * HOUR) == Step(2, True)
    assert [row["at"] for row in store.journal.listing(limit=10)] == [NOW + hour * HOUR for hour in (4, 3, 2)]


def test_newest_entry_stays_so_that_no_number_is_given_twice(store: Store) -> None:
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    (entry,) = store.journal.listing(limit=10)
    assert store.retention.journal(LATER).deleted == 0
    settle(store, sync(A, "k1"), now=LATER)
    assert swept(store.retention.journal, LATER) == 1
    assert store.journal.listing(limit=10)[0]["entry"] > entry["entry"]


def test_entry_from_a_clock_that_was_ahead_stays_and_holds_up_no_others(store: Store) -> None:
    register(store, A, "meter")
    for at in (LATER, NOW, NOW + HOUR, NOW + 2 * HOUR):
        settle(store, sync(A, "k1"), now=at)
    store.retention.journal(NOW + 2 * HOUR)
    assert [row["at"] for row in store.journal.listing(limit=10)] == [NOW + 2 * HOUR, LATER]


def test_many_entries_from_a_clock_that_was_ahead_hold_up_no_others(store: Store) -> None:
    register(store, A, "meter")
    ahead = [LATER + hour * HOUR for hour in range(7)]
    for at in (*ahead, *(NOW + hour * HOUR for hour in range(20))):
        settle(store, sync(A, "k1"), now=at)
    with mock.patch.object(retention, "RETENTION_ROWS", 3):
        steps = [store.retention.journal(NOW + 15 * HOUR) for _ in range(12)]
        assert sum(step.deleted for step in steps) == 15
        young = [NOW + hour * HOUR for hour in (19, 18, 17, 16, 15)]
        assert [row["at"] for row in store.journal.listing(limit=50)] == [*young, *reversed(ahead)]
        assert any(step.deleted and not step.done for step in steps)  # one step after the other, where they are
        for _ in range(12):  # what comes to be old is found by the next walk
            store.retention.journal(NOW + 18 * HOUR)
        assert [row["at"] for row in store.journal.listing(limit=50)] == [*young[:2], *reversed(ahead)]


def test_a_step_deletes_no_more_than_it_may_and_says_that_there_is_more(store: Store) -> None:
    register(store, A, "meter")
    for hour in range(6):
        settle(store, sync(A, "k1"), now=NOW + hour * HOUR)
    with mock.patch.object(retention, "RETENTION_ROWS", 2):
        assert store.retention.journal(LATER) == Step(2, False)
        assert store.retention.tallies(LATER) == Step(2, False)
        assert swept(store.retention.journal, LATER) == 3
    assert len(journalled(store)) == 1


def test_tallies_go_by_the_hour(store: Store) -> None:
    unfit = Unfit(outcome=Outcome.INVALID_MDN, sender="86199/13", received_at=NOW, link="north")
    for hour in range(3):
        store.settle([unfit], NOW + hour * HOUR)
    assert store.retention.tallies(NOW + HOUR) == Step(1, True)
    assert store.journal.tallies() == [{"link": "north", "outcome": "invalid_mdn", "count": 2}]


def test_ended_binding_goes_once_its_platform_let_go(moving: Store) -> None:
    assert swept(moving.retention.ended_bindings, LATER) == 0
    confirm_all(moving)
    assert moving.retention.ended_bindings(NOW).deleted == 0
    assert swept(moving.retention.ended_bindings, LATER) == 1
    assert ended(moving) == []
    assert bound(moving) == {(B, "meter"): "k1"}


def test_binding_that_stands_never_goes(moving: Store) -> None:
    settle(moving, sync(C, "k3"))
    confirm_all(moving)
    swept(moving.retention.ended_bindings, LATER)
    assert bound(moving) == {(B, "meter"): "k1", (C, "meter"): "k3"}


def test_last_binding_of_a_key_stays_and_says_that_it_was_bound(moving: Store) -> None:
    moving.bindings.withdraw(B, "meter", NOW + 2)
    confirm_all(moving, now=NOW + 2)
    assert swept(moving.retention.ended_bindings, LATER) == 1
    assert ended(moving) == [(B, "k1")]
    key = moving.keys.get("k1")
    assert key is not None
    assert key["state"] == "active"


def test_evidence_of_a_hold_stays(open_store: OpenStore) -> None:
    store = open_store()
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    register(store, B, "meter")
    assert settle(store, sync(A, "k1"), sync(B, "k1", received_at=NOW + 1)) == [Outcome.BOUND, Outcome.HELD]
    (hold,) = open_holds(store)
    store.holds.refuse(hold["hold"], "eve", NOW + 2)
    store.bindings.withdraw(A, "meter", NOW + 3)
    assert settle(store, sync(A, "k1", received_at=NOW + 4), now=NOW + 4) == [Outcome.BOUND]
    confirm_all(store, now=NOW + 4)
    assert swept(store.retention.ended_bindings, LATER) == 0
    (shown,) = store.holds.listing(everything=True, limit=10)
    assert (shown["state"], shown["key_bound_at_mdn"]) == ("refused", A)
    # the refusal has ended with the binding in its evidence, and goes on being known to have
    assert settle(store, sync(B, "k1", received_at=NOW + 5), now=NOW + 5) == [Outcome.HELD]


def test_what_a_standing_hold_is_judged_by_stays(open_store: OpenStore) -> None:
    store = open_store(MOVING)
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1")
    register(store, A, "meter")
    register(store, B, "meter")
    settle(store, sync(A, "k1"), sync(B, "k1", received_at=NOW + 1))
    assert settle(store, sync(A, "k1", received_at=NOW + 2), now=NOW + 2) == [Outcome.HELD]
    confirm_all(store, now=NOW + 2)
    assert swept(store.retention.ended_bindings, LATER) == 0
    assert ended(store) == [(A, "k1")]


def test_key_that_a_platform_may_hold_is_not_destroyed_although_its_binding_is_old(moving: Store) -> None:
    moving.keys.revoke("k1", None, NOW + 2, compromised=True)
    swept(moving.retention.ended_bindings, LATER)
    with pytest.raises(NotPossible, match="may still be held"):
        moving.keys.destroy("k1", NOW + 3)


def test_walk_over_bindings_comes_round_again(moving: Store) -> None:
    settle(moving, sync(A, "k2", received_at=NOW + 2), sync(C, "k2", received_at=NOW + 3), now=NOW + 3)
    with mock.patch.object(retention, "RETENTION_ROWS", 3):
        for _ in range(2):
            assert moving.retention.ended_bindings(LATER).deleted == 0
        confirm_all(moving, now=NOW + 3)
        assert [moving.retention.ended_bindings(LATER).deleted for _ in range(4)] == [2, 0, 0, 0]
    assert ended(moving) == []
