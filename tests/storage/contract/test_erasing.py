"""Erasing: by command, when the last platform has confirmed, and when nobody needs a number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage import Store, erasing
from kmp_smsd.storage.erasing import Unconfirmed
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.outbox import Outbid
from tests.storage.conftest import OpenStore
from tests.storage.stock import (
    HOUR,
    NOW,
    A,
    B,
    C,
    bound,
    confirm_all,
    due,
    import_keys,
    journalled,
    open_holds,
    outbox,
    register,
    reject_all,
    settle,
    sync,
)


def living(store: Store) -> None:
    """A is bound at metering, waits for another key, and its key was reported from B; the platform has confirmed."""
    store.routes.set({"meter": "metering"})
    sum(store.routes.move(NOW))
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    register(store, B, "meter")
    assert settle(store, sync(A, "k1"), sync(A, "unknown"), sync(B, "k1"), sync(A, "k2")) == [
        Outcome.BOUND,
        Outcome.UNKNOWN_KEY,
        Outcome.HELD,
        Outcome.HELD,
    ]
    confirm_all(store)


def test_erasure_waits_until_the_platform_has_given_up_the_key(store: Store) -> None:
    living(store)
    erased = store.erasing.erase(A, NOW + 1)
    assert (erased.known, erased.blanked, erased.unconfirmed) == (
        True,
        False,
        (Unconfirmed("meter", "metering", False),),
    )
    assert bound(store) == {}
    assert [row["mdn"] for row in open_holds(store)] == [B]
    assert store.waiting.listing(limit=10) == []
    assert [row["mdn"] for row in store.registrations.listing(limit=10)] == [B]
    assert store.finish_erasing()
    assert store.erasing.erase(A, NOW + 2) == erased  # harmless
    assert [(store.erasing.show(mdn) or {})["erasing_at"] for mdn in (A, B)] == [NOW + 1, None]
    confirm_all(store, now=NOW + 2)
    assert not store.finish_erasing()
    assert store.erasing.show(A) is None
    assert not store.erasing.erase(A, NOW + 3).known
    assert outbox(store) == []


def test_rejected_withdrawal_is_not_confirmed(store: Store) -> None:
    living(store)
    store.erasing.erase(A, NOW + 1)
    reject_all(store, now=NOW + 1)
    assert store.erasing.erase(A, NOW + 2).unconfirmed == (Unconfirmed("meter", "metering", True),)
    store.finish_erasing()
    assert store.erasing.show(A) is not None


def test_erased_at_once_names_whom_nobody_tells_any_more(store: Store) -> None:
    living(store)
    (flying,) = due_after_withdrawal(store)
    erased = store.erasing.erase(A, NOW + 2, at_once=True)
    assert (erased.blanked, erased.unconfirmed) == (True, (Unconfirmed("meter", "metering", False),))
    assert store.erasing.show(A) is None
    assert due(store, now=NOW + 9) == []
    assert flying.mdn == A


def due_after_withdrawal(store: Store) -> list[object]:
    store.bindings.withdraw(A, "meter", NOW + 1)
    return due(store, now=NOW + 1)  # type: ignore[return-value]


def test_nothing_is_waited_for_where_no_platform_was_told(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    assert store.erasing.erase(A, NOW + 1).blanked


def test_number_being_erased_is_not_registered_anew(store: Store) -> None:
    living(store)
    store.erasing.erase(A, NOW + 1)
    with pytest.raises(NotPossible, match=f"{A} is being erased"):
        register(store, A, "meter")
    confirm_all(store, now=NOW + 1)
    store.finish_erasing()
    register(store, A, "meter", now=NOW + 2)
    assert settle(store, sync(A, "k1"), now=NOW + 3) == [Outcome.BOUND]


def test_message_of_a_number_being_erased_keeps_nothing(store: Store) -> None:
    living(store)
    store.erasing.erase(A, NOW + 1)
    assert settle(store, sync(A, "k1"), sync(A, "k1"), now=NOW + 2) == [Outcome.NOT_REGISTERED] * 2
    assert store.waiting.listing(limit=10) == []
    confirm_all(store, now=NOW + 2)
    store.finish_erasing()
    assert store.erasing.show(A) is None


def test_message_of_another_number_waits_beside_one_that_is_being_erased(store: Store) -> None:
    living(store)
    settle(store, sync(C, "k1"))
    store.erasing.erase(A, NOW + 1)
    settle(store, sync(C, "k2"), now=NOW + 2)
    assert [(row["mdn"], row["key_id"]) for row in store.waiting.listing(limit=10)] == [(C, "k1"), (C, "k2")]


def test_listings_know_an_erased_number_no_more(store: Store) -> None:
    living(store)
    store.erasing.erase(A, NOW + 1, at_once=True)
    assert {mdn for mdn, _ in journalled(store)} == {None, B}
    holds = {row["mdn"]: row for row in store.holds.listing(everything=True, limit=10)}
    assert holds[None]["state"] == "closed"
    assert (holds[B]["key_bound_at_mdn"], holds[B]["key_bound_at_app"]) == (None, "meter")
    assert store.keys.listing(limit=10)[0]["mdn"] is None
    assert store.bindings.of(A) == []


def test_approval_of_a_hold_of_an_erased_number_is_void(store: Store) -> None:
    living(store)
    register(store, B, "tracker")
    (hold,) = [row for row in open_holds(store) if row["mdn"] == B]
    store.holds.approve(hold["hold"], "adam")
    store.erasing.erase(B, NOW + 1)
    assert store.settle_again(NOW + 2) == []
    assert store.erasing.show(B) is None


def test_submission_that_is_not_decided_goes_with_its_number(store: Store) -> None:
    living(store)
    store.submissions.submit([sync(A, "k1", link="data")], NOW + 1)
    store.erasing.erase(A, NOW + 1, at_once=True)
    assert store.settle_again(NOW + 2) == []


# Numbers that nobody needs


def test_number_that_nobody_needs_is_blanked(store: Store) -> None:
    import_keys(store, "k1")
    assert settle(store, sync(A, "stranger")) == [Outcome.NOT_REGISTERED]
    assert store.erasing.sweep(NOW) == 0
    assert store.erasing.sweep(NOW + 1) == 1
    assert store.erasing.show(A) is None
    assert journalled(store) == [(None, "not_registered")]
    assert store.erasing.sweep(NOW + 1) == 0


def test_what_hangs_on_a_number_keeps_it(store: Store) -> None:
    living(store)
    late = NOW + 100 * HOUR
    assert store.erasing.sweep(late) == 0  # registered
    store.registrations.remove(A, ["meter"], NOW + 1)
    assert store.erasing.sweep(late) == 0  # a withdrawal is not confirmed
    confirm_all(store, now=NOW + 1)
    assert store.erasing.sweep(NOW + 1) == 0  # heard of not long enough ago
    assert store.erasing.sweep(late) == 1
    assert (store.erasing.show(A), outbox(store)) == (None, [])
    assert store.erasing.show(B) is not None


def test_submission_keeps_its_number_until_it_is_decided(store: Store) -> None:
    import_keys(store, "k1")
    store.submissions.submit([sync(A, "stranger", link="data")], NOW)
    assert store.erasing.sweep(NOW + 1) == 0
    assert store.settle_again(NOW + 2) == [Outcome.NOT_REGISTERED]
    assert store.erasing.sweep(NOW + HOUR) == 1


def test_hold_keeps_its_number(store: Store) -> None:
    living(store)
    store.registrations.remove(B, ["meter"], NOW + 1)
    assert store.erasing.sweep(NOW + 2) == 1  # which closed the hold of B


def test_sweep_blanks_a_step_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "BLANK_ROWS", 4)
    for number in range(10):
        settle(store, sync(f"86139000001{number:02}", "k1"))
    blanked = []
    while not blanked or store.erasing.sweeping:
        blanked.append(store.erasing.sweep(NOW + 1))
    assert sum(blanked) == 10
    assert max(blanked) <= 4


@pytest.mark.usefixtures("small_steps")
def test_sweep_comes_round_to_every_number(store: Store) -> None:
    mdns = [f"86139000001{number:02}" for number in range(10)]
    for mdn in mdns[::2]:
        register(store, mdn, "meter")
    settle(store, *[sync(mdn, "k1") for mdn in mdns[1::2]])
    assert sum(store.erasing.sweep(NOW + 1) for _ in range(12)) == 5
    assert [store.erasing.show(mdn) is not None for mdn in mdns] == [True, False] * 5
    settle(store, sync(mdns[1], "k1"), now=NOW + HOUR)
    assert sum(store.erasing.sweep(NOW + 2 * HOUR) for _ in range(12)) == 1


@pytest.mark.usefixtures("small_steps")
def test_many_erasures_are_finished_in_steps(store: Store) -> None:
    store.routes.set({"meter": "metering"})
    mdns = [f"86139000001{number:02}" for number in range(5)]
    import_keys(store, *mdns)
    for mdn in mdns:
        register(store, mdn, "meter")
    settle(store, *[sync(mdn, mdn) for mdn in mdns])
    confirm_all(store)
    for mdn in mdns:
        store.erasing.erase(mdn, NOW + 1)
    assert [store.finish_erasing() for _ in range(3)] == [True] * 3
    confirm_all(store, now=NOW + 1)
    while store.finish_erasing():
        pass
    assert [store.erasing.show(mdn) for mdn in mdns] == [None] * 5


# What is known of a number


def test_number_is_shown_with_all_that_hangs_on_it(store: Store) -> None:
    living(store)
    shown = store.erasing.show(A)
    assert shown is not None
    assert (shown["registered"], shown["bound"]) == (["meter"], [{"app_id": "meter", "key_id": "k1"}])
    assert (shown["holds"], shown["waiting"], shown["unconfirmed"], shown["erasing_at"]) == (1, 1, [], None)
    store.erasing.erase(A, NOW + 1)
    shown = store.erasing.show(A)
    assert shown is not None
    assert (shown["registered"], shown["bound"], shown["ended_bindings"]) == ([], [], 1)
    assert (shown["holds"], shown["waiting"], shown["erasing_at"]) == (0, 0, NOW + 1)
    assert [row["platform"] for row in shown["unconfirmed"]] == ["metering"]


# What others do meanwhile, and how much one transaction may do


def meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have it done between the look of the next step and its transaction."""
    transaction, done = store._database.transaction, []

    def begun() -> AbstractContextManager[Any]:
        if not done:
            done.append(True)
            do()
        return transaction()

    monkeypatch.setattr(store._database, "transaction", begun)


def test_number_whose_keys_are_wanted_again_meanwhile_is_not_blanked(
    store: Store, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    living(store)
    store.erasing.erase(A, NOW + 1)
    confirm_all(store, now=NOW + 1)
    resyncing = open_store()
    meanwhile(store, monkeypatch, lambda: resyncing.renewing.want_again(NOW + 2, platform="metering"))
    assert store.finish_erasing()
    assert store.erasing.erase(A, NOW + 3).unconfirmed == (Unconfirmed("meter", "metering", False),)
    confirm_all(store, now=NOW + 4)
    assert not store.finish_erasing()
    assert store.erasing.show(A) is None


def test_number_with_too_many_apps_is_refused_before_anything_is_changed(store: Store) -> None:
    apps = [f"app-{number}" for number in range(251)]
    register(store, A, *apps)
    with pytest.raises(NotPossible, match="more than 250 registrations"):
        store.erasing.erase(A, NOW, at_once=True)
    shown = store.erasing.show(A)
    assert shown is not None
    assert (len(shown["registered"]), shown["erasing_at"]) == (251, None)
    store.registrations.remove(A, apps[:1], NOW)
    assert store.erasing.erase(A, NOW, at_once=True).blanked


def test_number_that_comes_again_has_higher_versions_than_before(store: Store) -> None:
    """They had run ahead of the clock, and the platform keeps the last one for the number."""
    living(store)
    store.bindings.withdraw(A, "meter", NOW + 1)
    (row,) = due(store, now=NOW + 1)
    ahead = NOW + 1_000 * HOUR
    store.outbox.settle("metering", [Outbid(row, ahead, NOW + 1, "holds more")], NOW + 1)
    confirm_all(store, now=NOW + 1)
    assert store.erasing.erase(A, NOW + 2).blanked
    register(store, A, "meter", now=NOW + 3)
    assert settle(store, sync(A, "k1"), now=NOW + 3) == [Outcome.BOUND]
    (row,) = due(store, now=NOW + 3)
    assert (row.mdn, row.version) == (A, ahead + 2)
