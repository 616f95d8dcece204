"""Requests that come before what they need: kept, marked by what arrives, decided again, never for ever."""

from __future__ import annotations

from typing import Any

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store
from kmp_smsd.storage.waiting import KEPT_PER_KEY, KEPT_PER_MDN
from tests.storage.stock import (
    DIGEST,
    HOUR,
    MOVING,
    NOW,
    A,
    B,
    bound,
    counted,
    import_keys,
    journalled,
    register,
    settle,
    staged,
    sync,
    wanted,
)

LATER = NOW + HOUR


def waiting(store: Store) -> dict[tuple[str, str], str]:
    """(MDN, key ID) -> what is missing."""
    return {(row["mdn"], row["key_id"]): row["outcome"] for row in store.waiting.listing(limit=1_000)}


def test_registered_after_power_on_is_bound_without_another_message(store: Store) -> None:
    import_keys(store, "k1")
    assert settle(store, sync(A, "k1")) == [Outcome.NOT_REGISTERED]
    assert store.settle_again(LATER) == []
    register(store, A, "meter", now=LATER)
    assert store.settle_again(LATER) == [Outcome.BOUND]
    assert bound(store) == {(A, "meter"): "k1"}
    assert wanted(store) == {(A, "meter", ""): "k1"}
    assert waiting(store) == {}
    assert [row["received_at"] for row in store.bindings.of(A)] == [NOW]
    assert journalled(store) == [(A, "not_registered"), (A, "bound")]
    assert store.settle_again(LATER) == []


def test_imported_after_power_on_is_bound_without_another_message(store: Store) -> None:
    register(store, A, "meter")
    assert settle(store, sync(A, "k1")) == [Outcome.UNKNOWN_KEY]
    import_keys(store, "k2")
    assert store.settle_again(LATER) == []
    import_keys(store, "k1")
    assert store.settle_again(LATER) == [Outcome.BOUND]
    assert bound(store) == {(A, "meter"): "k1"}


def test_import_that_is_staged_only_wakes_nobody(store: Store) -> None:
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    import_keys(store, "k2")  # which are looked for
    number = store.imports.begin(
        vendor="acme", file_name="f", data_key_id="d", sealed=b"", fingerprint="5f" * 16, now=NOW
    )
    store.imports.stage(number, [staged("k1")])
    assert store.settle_again(LATER) == []
    store.imports.publish(number, DIGEST, LATER)
    assert store.settle_again(LATER) == [Outcome.BOUND]


def test_resumed_key_is_bound_without_another_message(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    store.keys.suspend("k1", "checking")
    assert settle(store, sync(A, "k1")) == [Outcome.KEY_NOT_USABLE]
    store.keys.resume("k1", LATER)
    assert store.settle_again(LATER) == [Outcome.BOUND]


def test_key_is_bound_when_its_validity_begins(store: Store) -> None:
    import_keys(store, staged("k1", valid_from=LATER))
    register(store, A, "meter")
    assert settle(store, sync(A, "k1")) == [Outcome.KEY_NOT_USABLE]
    assert store.settle_again(LATER - 1) == []
    assert store.settle_again(LATER) == [Outcome.BOUND]


def test_one_registration_too_many_and_the_right_one_missing(store: Store) -> None:
    """Which app is meant shows when one of two goes, or when the right one comes."""
    import_keys(store, "k1", staged("reserved", app_id="alarm"))
    register(store, A, "meter", "tracker")
    assert settle(store, sync(A, "k1"), sync(A, "reserved")) == [Outcome.APP_REQUIRED, Outcome.APP_NOT_REGISTERED]
    store.registrations.remove(A, ["tracker"], LATER)
    assert store.settle_again(LATER) == [Outcome.BOUND, Outcome.APP_NOT_REGISTERED]
    register(store, A, "alarm", now=LATER)
    assert store.settle_again(LATER) == [Outcome.BOUND]
    assert bound(store) == {(A, "meter"): "k1", (A, "alarm"): "reserved"}


def test_request_keeps_all_that_it_said(open_store: Any) -> None:
    store = open_store(SyncPolicy())
    import_keys(store, "k1", "k2")
    register(store, B, "meter")
    settle(store, sync(B, "k2"))
    request = SyncRequest(
        mdn=A, key_id="k2", app_id="meter", proof=Proof(7, "0" * 13), received_at=NOW + 1, link="south"
    )
    settle(store, request)
    register(store, A, "meter", "tracker")
    assert store.settle_again(LATER) == [Outcome.HELD]
    (hold,) = store.holds.listing(limit=9)
    assert (hold["app_id"], hold["proof_counter"], hold["received_at"]) == ("meter", 7, NOW + 1)
    assert store.journal.listing(limit=1)[0]["link"] == "south"


def test_last_request_of_a_key_and_mdn_is_the_one_that_waits(store: Store) -> None:
    import_keys(store, "k1")
    settle(store, sync(A, "k1", "meter"), sync(A, "k1", "tracker", received_at=NOW + 5))
    register(store, A, "meter", "tracker")
    assert store.settle_again(LATER) == [Outcome.BOUND]
    assert bound(store) == {(A, "tracker"): "k1"}


def test_waiting_request_does_not_undo_what_is_newer(open_store: Any) -> None:
    store = open_store(MOVING)
    import_keys(store, "k1")
    settle(store, sync(A, "k1"))
    register(store, B, "meter")
    assert settle(store, sync(B, "k1", received_at=NOW + 10), now=NOW + 10) == [Outcome.BOUND]
    register(store, A, "meter", now=LATER)
    assert store.settle_again(LATER) == [Outcome.HELD]
    assert bound(store) == {(B, "meter"): "k1"}


@pytest.mark.parametrize("ending", ["bound by a message", "held", "malformed since"])
def test_any_other_outcome_ends_the_waiting(open_store: Any, ending: str) -> None:
    store = open_store(SyncPolicy(on_sim_change=OnConflict.HELD))
    import_keys(store, "k1")
    settle(store, sync(A, "k1"))
    assert waiting(store) == {(A, "k1"): "not_registered"}
    if ending == "held":
        register(store, B, "meter")
        settle(store, sync(B, "k1"))
    register(store, A, "meter")
    outcome = settle(store, sync(A, "k1", received_at=LATER), now=LATER)
    assert outcome == [Outcome.HELD if ending == "held" else Outcome.BOUND]
    assert waiting(store) == {}
    if ending != "held":
        store.bindings.withdraw(A, "meter", LATER)
    assert store.settle_again(LATER) == []  # the mark of the registration went with the request


def test_what_comes_after_an_answer_waits_although_it_is_older_than_what_waited_before(store: Store) -> None:
    register(store, A, "meter")
    assert settle(store, sync(A, "k1", received_at=NOW)) == [Outcome.UNKNOWN_KEY]
    import_keys(store, "k1")
    batch = sync(A, "k1", received_at=NOW), sync(A, "k1", "tracker", received_at=NOW - 1)
    assert settle(store, *batch) == [Outcome.BOUND, Outcome.APP_NOT_REGISTERED]
    assert waiting(store) == {(A, "k1"): "app_not_registered"}


def test_what_still_misses_something_goes_on_waiting_and_is_counted_once(store: Store) -> None:
    import_keys(store, "k1")
    settle(store, sync(A, "k1", "tracker"))
    register(store, A, "meter")
    assert store.settle_again(LATER) == [Outcome.APP_NOT_REGISTERED]
    assert waiting(store) == {(A, "k1"): "app_not_registered"}
    assert store.settle_again(LATER) == []
    assert counted(store) == {"not_registered": 1}
    register(store, A, "tracker")
    assert store.settle_again(LATER) == [Outcome.BOUND]


def test_forger_of_senders_and_key_ids_fills_nothing(store: Store) -> None:
    register(store, A, "meter")
    import_keys(store, "k1", staged("mine"))
    forged = [f"86139{number:08}" for number in range(100, 200)]
    settle(store, *(sync(mdn, f"guess-{mdn}") for mdn in forged))
    assert waiting(store) == {}
    settle(store, *(sync(mdn, "k1", received_at=NOW + position) for position, mdn in enumerate(forged)))
    assert list(waiting(store)) == [(mdn, "k1") for mdn in forged[:KEPT_PER_KEY]]
    settle(store, *(sync(A, f"guess-{number:03}", received_at=NOW + number) for number in range(200)))
    assert [key for mdn, key in waiting(store) if mdn == A] == [
        f"guess-{number:03}" for number in range(200 - KEPT_PER_MDN, 200)
    ]


def test_what_a_batch_pushes_out_and_brings_again_takes_no_room_of_its_own(store: Store) -> None:
    register(store, A, "meter")
    for number in range(KEPT_PER_MDN):
        settle(store, sync(A, f"k{number}", received_at=NOW + number))
    again = sync(A, "k0", received_at=NOW + 1_001)
    settle(store, sync(A, "new", received_at=NOW + 1_000), again, now=NOW + 1_001)
    waits = {key for _, key in waiting(store)}
    assert len(waits) == KEPT_PER_MDN
    assert {"k0", "new"} <= waits


def test_who_waits_first_for_a_key_is_pushed_out_by_nobody(store: Store) -> None:
    import_keys(store, "k1")
    forged = [f"86139{number:08}" for number in range(100, 200)]
    settle(store, sync(A, "k1"))
    settle(store, *(sync(mdn, "k1", received_at=NOW + 1 + position) for position, mdn in enumerate(forged)))
    settle(store, sync(A, "k1", received_at=NOW + 500))  # it repeats, and is the newest now
    settle(store, *(sync(mdn, "k1", received_at=NOW + 501 + position) for position, mdn in enumerate(forged)))
    register(store, A, "meter", now=LATER)
    assert Outcome.BOUND in store.settle_again(LATER)
    assert bound(store) == {(A, "meter"): "k1"}


def test_who_is_registered_waits_for_a_key_whoever_else_does(store: Store) -> None:
    import_keys(store, "k1")
    forged = [f"86139{number:08}" for number in range(100, 200)]
    settle(store, *(sync(mdn, "k1", received_at=NOW + position) for position, mdn in enumerate(forged)))
    register(store, A, "meter")
    assert settle(store, sync(A, "k1", "tracker", received_at=NOW + 500)) == [Outcome.APP_NOT_REGISTERED]
    settle(store, *(sync(mdn, "k1", received_at=NOW + 501 + position) for position, mdn in enumerate(forged)))
    register(store, A, "tracker", now=LATER)
    assert store.settle_again(LATER) == [Outcome.BOUND]
    assert len(waiting(store)) == KEPT_PER_KEY


def test_of_the_registered_as_well_the_first_stay(store: Store) -> None:
    others = [f"86139{number:08}" for number in range(100, 100 + KEPT_PER_KEY)]
    for mdn in (A, *others):
        register(store, mdn, "meter")
        settle(store, sync(mdn, "later"))
    assert list(waiting(store)) == [(mdn, "later") for mdn in (A, *others[:-1])]


def test_mark_does_not_depend_on_the_clock_of_who_set_it(store: Store) -> None:
    """Intake's clock is an hour behind, or was set back since."""
    import_keys(store, "k1", "k2")
    store.keys.suspend("k2", None)
    settle(store, sync(A, "k1"))
    register(store, A, "meter", now=LATER)
    assert store.settle_again(NOW) == [Outcome.BOUND]
    settle(store, sync(A, "k2"), sync(A, "k3"), sync(B, "k1"))
    store.keys.resume("k2", LATER)
    assert store.settle_again(NOW) == [Outcome.HELD]
    store.renumbering.renumber(A, B, LATER)
    assert store.settle_again(NOW) == [Outcome.ALREADY_BOUND, Outcome.UNKNOWN_KEY]


def test_what_is_marked_is_decided_in_the_order_of_receipt(store: Store) -> None:
    import_keys(store, "k1", "k2")
    settle(store, sync(A, "k1"), sync(B, "k2", received_at=NOW + 1))
    register(store, B, "tracker", now=NOW + 2)
    register(store, A, "meter", now=LATER)
    assert store.settle_again(LATER) == [Outcome.BOUND, Outcome.BOUND]
    assert [row["mdn"] for row in store.journal.listing(limit=2)] == [B, A]


@pytest.mark.usefixtures("small_steps")
def test_all_that_waits_for_a_key_is_decided_in_the_order_of_receipt_however_long_looking_for_it_takes(
    open_store: Any,
) -> None:
    store = open_store(SyncPolicy(on_sim_change=OnConflict.MOVED))
    for late, mdn in enumerate([A, *(f"86139000002{number:02}" for number in range(5)), B]):
        register(store, mdn, "meter")
        settle(store, sync(mdn, "k1", received_at=NOW - late))
    import_keys(store, "k1")
    while not (outcomes := store.settle_again(LATER)):
        assert store.waiting.recalling
    assert outcomes == [Outcome.BOUND] + [Outcome.MOVED] * 6
    assert bound(store) == {(A, "meter"): "k1"}  # the last, although the first that was found


@pytest.mark.usefixtures("small_steps")
def test_import_that_goes_live_while_what_waits_is_looked_through_for_another_is_looked_for_after_it(
    store: Store,
) -> None:
    for number in range(6):
        register(store, f"861390000020{number}", "meter")
        settle(store, sync(f"861390000020{number}", f"k{number}"))
    import_keys(store, "k5")
    assert store.settle_again(LATER) == []
    assert store.waiting.recalling
    import_keys(store, "k0")
    outcomes = [outcome for _ in range(10) for outcome in store.settle_again(LATER)]
    assert outcomes == [Outcome.BOUND, Outcome.BOUND]
    assert set(bound(store).values()) == {"k0", "k5"}
    assert {row["key_id"] for row in store.waiting.listing(limit=9)} == {"k1", "k2", "k3", "k4"}


def test_waiting_is_forgotten_when_it_has_waited_for_long(store: Store) -> None:
    import_keys(store, "k1")
    settle(store, sync(A, "k1"), sync(B, "k1", received_at=NOW + 10))
    assert store.waiting.expire(NOW + 10) == 1
    assert list(waiting(store)) == [(B, "k1")]


def test_waiting_is_listed_in_pages_and_by_mdn(store: Store) -> None:
    import_keys(store, "k1", "k2")
    settle(store, sync(A, "k1"), sync(A, "k2"), sync(B, "k1"))
    first = store.waiting.listing(limit=2)
    assert [(row["mdn"], row["key_id"]) for row in first] == [(A, "k1"), (A, "k2")]
    (last,) = store.waiting.listing(after=(first[-1]["subscriber"], "k2"), limit=2)
    assert (last["mdn"], last["key_id"], last["received_at"], last["link"]) == (B, "k1", NOW, "north")
    assert [row["key_id"] for row in store.waiting.listing(mdn=B, limit=9)] == ["k1"]


def test_invented_keys_under_a_forged_number_push_out_nothing_that_waits_for_a_key_that_exists(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "tracker")
    settle(store, sync(A, "k1", "meter"))
    for number in range(KEPT_PER_MDN + 1):
        settle(store, sync(A, f"invented-{number}", received_at=NOW + 1 + number))
    assert len(waiting(store)) == KEPT_PER_MDN
    register(store, A, "meter", now=LATER)
    store.settle_again(LATER)
    assert bound(store) == {(A, "meter"): "k1"}
