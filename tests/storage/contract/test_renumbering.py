"""A subscriber's new number has all that the old one had, and the old one has nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage import Store
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.outbox import Confirm
from kmp_smsd.storage.subscribers import APPS_AT_ONCE
from kmp_smsd.storage.waiting import KEPT_PER_MDN
from kmp_smsd.storage.waking import AT_ONCE
from tests.storage.stock import (
    HOUR,
    MOVING,
    NOW,
    A,
    B,
    C,
    bound,
    confirm_all,
    due,
    import_keys,
    open_holds,
    register,
    settle,
    sync,
    versions,
    wanted,
)

LATER = NOW + HOUR


def registered(store: Store) -> set[tuple[str, str]]:
    return {(row["mdn"], row["app_id"]) for row in store.registrations.listing(limit=1_000)}


def waiting(store: Store) -> dict[tuple[str, str], tuple[int, int | None]]:
    return {
        (row["mdn"], row["key_id"]): (row["received_at"], row["again_at"]) for row in store.waiting.listing(limit=1_000)
    }


@pytest.fixture(name="bound_at_a")
def _bound_at_a(store: Store) -> Store:
    store.routes.set({"meter": "metering", "tracker": "fleet"})
    import_keys(store, "k1", "k2", "k3")
    register(store, A, "meter", "tracker", "alarm")
    settle(store, sync(A, "k1", "meter"), sync(A, "k2", "tracker", received_at=NOW + 1))
    confirm_all(store)
    return store


def test_new_number_has_registrations_and_keys_and_the_old_one_nothing(bound_at_a: Store) -> None:
    store = bound_at_a
    done = store.renumbering.renumber(A, B, LATER)
    assert (done.app_ids, done.key_ids) == (["alarm", "meter", "tracker"], {"meter": "k1", "tracker": "k2"})
    assert registered(store) == {(B, "alarm"), (B, "meter"), (B, "tracker")}
    assert bound(store) == {(B, "meter"): "k1", (B, "tracker"): "k2"}
    assert wanted(store) == {
        (A, "meter", "metering"): None,
        (A, "tracker", "fleet"): None,
        (B, "meter", "metering"): "k1",
        (B, "tracker", "fleet"): "k2",
    }
    assert [row["received_at"] for row in store.bindings.of(B)] == [NOW + 1, NOW]
    assert {(row["state"], row["why"], row["ended_at"]) for row in store.bindings.of(A)} == {
        ("withdrawn", "renumbered", LATER)
    }
    assert {row.mdn for row in due(store, now=LATER)} == {A, B}


def test_number_that_was_used_before_gets_versions_above_its_old_ones(bound_at_a: Store) -> None:
    store = bound_at_a
    store.renumbering.renumber(A, B, LATER)
    highest = versions(store)
    store.renumbering.renumber(B, A, LATER)  # within the same millisecond
    assert bound(store) == {(A, "meter"): "k1", (A, "tracker"): "k2"}
    assert all(versions(store)[place] > highest[place] for place in highest)


def test_answer_that_was_under_way_confirms_nothing_that_is_wanted_now(bound_at_a: Store) -> None:
    store = bound_at_a
    (flying,) = due(store, "fleet")
    store.renumbering.renumber(A, B, LATER)
    store.outbox.settle("fleet", [Confirm(flying)], LATER)
    assert {(row.mdn, row.key and row.key.key_id) for row in due(store, "fleet", LATER)} == {(A, None), (B, "k2")}


def test_key_that_is_moving_to_another_platform_is_wanted_nowhere_for_the_old_number(bound_at_a: Store) -> None:
    store = bound_at_a
    store.routes.set({"meter": "elsewhere"})
    store.renumbering.renumber(A, B, LATER)
    sum(store.routes.move(LATER))
    assert {place: key for place, key in wanted(store).items() if place[1] == "meter" and key} == {
        (B, "meter", "elsewhere"): "k1"
    }


def test_holds_at_the_old_number_are_closed(bound_at_a: Store) -> None:
    store = bound_at_a
    assert settle(store, sync(A, "k3", "meter"), sync(A, "k1", "alarm")) == [Outcome.HELD, Outcome.HELD]
    first, second = open_holds(store)
    store.holds.refuse(first["hold"], "eve", NOW)
    store.holds.approve(second["hold"], "adam")
    store.renumbering.renumber(A, B, LATER)
    assert {row["state"] for row in store.holds.listing(everything=True, limit=9)} == {"closed"}
    assert store.settle_again(LATER) == []


def test_what_waits_at_either_number_is_decided_again_at_the_new_one(store: Store) -> None:
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    settle(store, sync(A, "later"), sync(A, "k1", "tracker"), sync(B, "k2"))
    store.renumbering.renumber(A, B, LATER)
    assert waiting(store) == {(B, "later"): (NOW, AT_ONCE), (B, "k1"): (NOW, AT_ONCE), (B, "k2"): (NOW, AT_ONCE)}
    assert sorted(store.settle_again(LATER)) == [Outcome.APP_NOT_REGISTERED, Outcome.BOUND, Outcome.UNKNOWN_KEY]
    assert bound(store) == {(B, "meter"): "k2"}
    import_keys(store, "later")
    assert store.settle_again(LATER) == [Outcome.HELD]


@pytest.mark.parametrize("last", [A, B])
def test_of_a_key_that_waits_at_both_numbers_the_last_request_counts(store: Store, last: str) -> None:
    import_keys(store, "k1")
    register(store, A, "meter", "tracker")
    settle(store, sync(A, "k1", received_at=NOW + (last == A)), sync(B, "k1", "meter", received_at=NOW + (last == B)))
    store.renumbering.renumber(A, B, LATER)
    assert waiting(store) == {(B, "k1"): (NOW + 1, AT_ONCE)}
    assert store.settle_again(LATER) == [Outcome.BOUND if last == B else Outcome.APP_REQUIRED]


def test_two_numbers_keep_no_more_waiting_requests_than_one_may(store: Store) -> None:
    keys = [f"k{number}" for number in range(2 * KEPT_PER_MDN)]
    import_keys(store, *keys)
    register(store, A, "meter", "tracker")
    for at, key in enumerate(keys):
        settle(store, sync((A, B)[at % 2], key, received_at=NOW + at))
    store.renumbering.renumber(A, B, LATER)
    assert waiting(store).keys() == {(B, key) for key in keys[-KEPT_PER_MDN:]}


def test_message_from_the_old_number_takes_nothing_back(open_store: Any) -> None:
    store = open_store(MOVING)
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    store.renumbering.renumber(A, B, LATER)
    assert settle(store, sync(A, "k1", received_at=LATER), now=LATER) == [Outcome.NOT_REGISTERED]
    assert settle(store, sync(B, "k1", received_at=LATER), now=LATER) == [Outcome.ALREADY_BOUND]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (A, A, "the old and the new number are the same: name two numbers"),
        (C, B, "the old number has no registration: register the new one instead"),
        (A, B, "the new number has registrations of its own: remove them first, or take another number"),
    ],
)
def test_renumbering_that_makes_no_sense_changes_nothing(store: Store, old: str, new: str, sentence: str) -> None:
    register(store, A, "meter")
    register(store, B, "tracker")
    settle(store, sync(C, "k1"))
    before = registered(store)
    for wish in (lambda: store.renumbering.preview(old, new), lambda: store.renumbering.renumber(old, new, LATER)):
        with pytest.raises(NotPossible) as refused:
            wish()
        assert str(refused.value) == sentence
    assert registered(store) == before


def test_number_that_is_being_erased_is_nobody_s_new_one(bound_at_a: Store) -> None:
    store = bound_at_a
    register(store, B, "meter")
    settle(store, sync(B, "k3"))
    confirm_all(store)
    assert not store.erasing.erase(B, LATER).blanked
    for wish in (lambda: store.renumbering.preview(A, B), lambda: store.renumbering.renumber(A, B, LATER)):
        with pytest.raises(NotPossible, match="the new number is being erased: wait until it is gone, or take"):
            wish()
    assert {mdn for mdn, _ in registered(store)} == {A}
    confirm_all(store, now=LATER)
    assert not store.finish_erasing()
    assert store.renumbering.renumber(A, B, LATER).key_ids == {"meter": "k1", "tracker": "k2"}


def test_number_with_more_apps_than_a_transaction_may_move_stays(store: Store) -> None:
    register(store, A, *[f"app-{number}" for number in range(APPS_AT_ONCE + 1)])
    with pytest.raises(NotPossible, match="more than 250 registrations: remove some of them by name first"):
        store.renumbering.renumber(A, B, LATER)
    store.registrations.remove(A, ["app-0"], LATER)
    assert len(store.renumbering.renumber(A, B, LATER).app_ids) == APPS_AT_ONCE


def test_preview_says_what_renumbering_does_and_changes_nothing(bound_at_a: Store) -> None:
    store = bound_at_a
    said = store.renumbering.preview(A, B)
    assert {mdn for mdn, _ in registered(store)} == {A}
    assert store.renumbering.renumber(A, B, LATER) == said


def test_preview_does_not_wait_for_who_writes(bound_at_a: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound_at_a._database, "transaction", None)
    assert bound_at_a.renumbering.preview(A, B).key_ids == {"meter": "k1", "tracker": "k2"}
