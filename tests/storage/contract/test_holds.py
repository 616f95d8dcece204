"""The life of a hold: opened, refreshed, approved, refused, closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store, holding
from kmp_smsd.storage.errors import NotPossible
from tests.storage.stock import NOW, A, B, C, bound, import_keys, open_holds, register, settle, sync, wanted


@pytest.fixture(name="held")
def _held(store: Store) -> int:
    """k1 is bound at A, k2 at B; k1 has turned up at B and is held. The hold's number."""
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    register(store, B, "meter")
    assert settle(store, sync(A, "k1"), sync(B, "k2"), sync(B, "k1", received_at=NOW + 3), now=NOW + 5) == [
        Outcome.BOUND,
        Outcome.BOUND,
        Outcome.HELD,
    ]
    (hold,) = open_holds(store)
    return int(hold["hold"])


def state(store: Store, hold: int) -> str:
    found = store.holds.get(hold)
    assert found is not None
    return str(found["state"])


def decided(store: Store, now: int = NOW + 100) -> list[Outcome]:
    """What intake does with approvals: settle their requests like messages."""
    return store.settle_again(now)


def test_hold_shows_its_evidence(store: Store, held: int) -> None:
    hold = store.holds.get(held)
    assert hold is not None
    assert {name: hold[name] for name in ("mdn", "app_id", "key_id", "kcv", "received_at", "first_at", "repeats")} == {
        "mdn": B, "app_id": "meter", "key_id": "k1", "kcv": "BE7ED6", "received_at": NOW + 3, "first_at": NOW + 3,
        "repeats": 0,
    }  # fmt: skip
    assert (hold["key_bound_at_mdn"], hold["key_bound_at_app"], hold["key_bound_since"]) == (A, "meter", NOW + 5)
    assert (hold["here_bound_key_id"], hold["here_bound_since"], hold["proof_counter"]) == ("k2", NOW + 5, None)


def test_repeat_refreshes_the_hold(store: Store, held: int) -> None:
    again = SyncRequest(mdn=B, key_id="k1", received_at=NOW + 9, link="south", proof=Proof(7, "0" * 13))
    settle(store, again, again, now=NOW + 9)
    (hold,) = open_holds(store)
    assert (hold["hold"], hold["repeats"], hold["received_at"], hold["first_at"]) == (held, 2, NOW + 9, NOW + 3)
    assert hold["proof_counter"] == 7


def refuse_and_be_held_anew(store: Store, held: int) -> None:
    store.holds.refuse(held, "eve", NOW + 50)
    store.bindings.withdraw(B, "meter", NOW + 60)
    assert settle(store, sync(B, "k1"), now=NOW + 70) == [Outcome.HELD]


def approve_in_vain(store: Store, held: int) -> None:
    store.keys.suspend("k1", None)
    store.holds.approve(held, "adam")
    assert decided(store) == [Outcome.KEY_NOT_USABLE]


@pytest.mark.parametrize(
    "change",
    [
        lambda store, _: settle(store, sync(B, "k1", received_at=NOW + 9), now=NOW + 9),
        lambda store, held: store.holds.approve(held, "adam"),
        refuse_and_be_held_anew,
        approve_in_vain,
    ],
)
def test_what_becomes_of_a_hold_changes_no_other(
    store: Store, held: int, change: Callable[[Store, int], object]
) -> None:
    import_keys(store, "k3")
    register(store, C, "meter")
    assert settle(store, sync(C, "k3"), sync(C, "k1")) == [Outcome.BOUND, Outcome.HELD]
    (other,) = (hold["hold"] for hold in open_holds(store) if hold["hold"] != held)
    known = store.holds.get(held), store.holds.get(other)
    change(store, held)
    assert store.holds.get(held) != known[0]
    assert store.holds.get(other) == known[1]


@pytest.mark.usefixtures("held")
def test_hold_changes_nothing_that_is_bound_or_wanted(store: Store) -> None:
    assert bound(store) == {(A, "meter"): "k1", (B, "meter"): "k2"}
    assert wanted(store) == {(A, "meter", ""): "k1", (B, "meter", ""): "k2"}


@pytest.mark.usefixtures("held")
def test_number_of_which_nothing_is_known_sends_a_key_of_which_a_hold_stands(store: Store) -> None:
    assert settle(store, sync(C, "k1")) == [Outcome.NOT_REGISTERED]


def test_request_of_a_hold_that_nobody_approves_any_more_moves_nothing(store: Store, held: int) -> None:
    came_again = replace(sync(B, "k1", received_at=NOW + 3), approved_hold=held)
    assert settle(store, came_again, now=NOW + 6) == [Outcome.HELD]
    assert bound(store) == {(A, "meter"): "k1", (B, "meter"): "k2"}


def test_approved_hold_moves_the_key(store: Store, held: int) -> None:
    store.holds.approve(held, "adam")
    assert state(store, held) == "open"
    assert decided(store) == [Outcome.MOVED]
    assert bound(store) == {(B, "meter"): "k1"}
    hold = store.holds.get(held)
    assert hold is not None
    assert (hold["state"], hold["by"], hold["last_outcome"], hold["settled_at"]) == (
        "approved",
        "adam",
        "moved",
        NOW + 100,
    )
    assert store.settle_again(NOW + 999) == []


def test_approval_is_of_the_app_that_was_shown(store: Store, held: int) -> None:
    """B opened a second app meanwhile; the message named none."""
    register(store, B, "tracker")
    store.holds.approve(held, "adam")
    assert decided(store) == [Outcome.MOVED]
    assert bound(store) == {(B, "meter"): "k1"}


def test_approval_that_cannot_be_fulfilled_is_shown_and_leaves_the_hold_open(store: Store, held: int) -> None:
    store.keys.suspend("k1", "stolen?")
    store.holds.approve(held, "adam")
    assert decided(store) == [Outcome.KEY_NOT_USABLE]
    hold = store.holds.get(held)
    assert hold is not None
    assert (hold["state"], hold["last_outcome"], hold["deciding"]) == ("open", "key_not_usable", 0)
    store.keys.resume("k1", NOW)
    store.holds.approve(held, "adam")
    assert decided(store) == [Outcome.MOVED]


def test_approved_after_the_key_was_revoked_approves_nothing(store: Store, held: int) -> None:
    store.keys.revoke("k1", "lost", NOW + 50, compromised=True)
    with pytest.raises(NotPossible, match=f"hold {held} is closed"):
        store.holds.approve(held, "adam")
    assert store.settle_again(NOW + 999) == []


@pytest.mark.parametrize("ending", ["refused", "revoked", "registration"])
def test_approval_that_is_overtaken_by_an_ending_moves_nothing(store: Store, held: int, ending: str) -> None:
    store.holds.approve(held, "adam")
    if ending == "refused":
        store.holds.refuse(held, "eve", NOW + 50)
    elif ending == "revoked":
        store.keys.revoke("k1", None, NOW + 50, compromised=False)
    else:
        store.registrations.remove(B, ["meter"], NOW + 50)
        register(store, B, "meter")
    before = bound(store)
    assert decided(store) == []
    assert bound(store) == before


def test_approval_ends_no_binding_that_nobody_was_shown(store: Store, held: int) -> None:
    """What stood in the way went, and another key came to its place while the person thought."""
    import_keys(store, "k3")
    store.bindings.withdraw(B, "meter", NOW + 50)
    assert settle(store, sync(B, "k3", received_at=NOW + 60), now=NOW + 60) == [Outcome.BOUND]
    before = bound(store)
    store.holds.approve(held, "adam")
    assert decided(store) == [Outcome.HELD]
    assert bound(store) == before
    hold = store.holds.get(held)
    assert hold is not None
    assert (hold["state"], hold["here_bound_key_id"], hold["deciding"], hold["last_outcome"], hold["repeats"]) == (
        "open", "k3", 0, "held", 0,
    )  # fmt: skip
    store.holds.approve(held, "adam")
    assert decided(store) == [Outcome.MOVED]


def test_approval_does_not_stand_when_the_message_comes_again_with_other_evidence(store: Store, held: int) -> None:
    import_keys(store, "k3")
    store.holds.approve(held, "adam")
    store.bindings.withdraw(B, "meter", NOW + 50)
    settle(store, sync(B, "k3", received_at=NOW + 60), now=NOW + 60)
    assert settle(store, sync(B, "k1", received_at=NOW + 70), now=NOW + 70) == [Outcome.HELD]
    assert decided(store) == []
    assert state(store, held) == "open"


def test_of_two_holds_at_one_place_the_first_approval_counts(open_store: Any) -> None:
    store = open_store()
    import_keys(store, "k1", "k2", "k3")
    register(store, A, "meter")
    settle(store, sync(A, "k1"), sync(A, "k2"), sync(A, "k3"))
    first, second = (hold["hold"] for hold in open_holds(store))
    store.holds.approve(first, "adam")
    store.holds.approve(second, "adam")
    assert decided(store, NOW + 1) == [Outcome.MOVED, Outcome.HELD]
    assert bound(store) == {(A, "meter"): "k2"}
    assert [state(store, hold) for hold in (first, second)] == ["approved", "open"]
    assert [hold["here_bound_key_id"] for hold in open_holds(store)] == ["k2"]


def test_refused_hold_refuses_the_same_message_from_now_on(store: Store, held: int) -> None:
    store.holds.refuse(held, "eve", NOW + 50)
    assert settle(store, sync(B, "k1"), now=NOW + 60) == [Outcome.REFUSED]
    assert open_holds(store) == []
    assert settle(store, sync(A, "k2"), now=NOW + 60) == [Outcome.HELD]


@pytest.mark.parametrize("ending", ["withdraw elsewhere", "withdraw here", "revoke occupant"])
def test_refusal_ends_with_a_binding_in_its_evidence(store: Store, held: int, ending: str) -> None:
    store.holds.refuse(held, "eve", NOW + 50)
    if ending == "withdraw elsewhere":
        store.bindings.withdraw(A, "meter", NOW + 60)
    elif ending == "withdraw here":
        store.bindings.withdraw(B, "meter", NOW + 60)
    else:
        store.keys.revoke("k2", None, NOW + 60, compromised=False)
    assert settle(store, sync(B, "k1", received_at=NOW + 70), now=NOW + 70) == [Outcome.HELD]
    (hold,) = open_holds(store)
    assert hold["hold"] != held
    assert state(store, held) == "closed"


def test_refusal_stands_although_a_binding_ends_that_is_not_in_its_evidence(store: Store, held: int) -> None:
    import_keys(store, "k3")
    register(store, C, "meter")
    settle(store, sync(C, "k3"))
    store.holds.refuse(held, "eve", NOW + 50)
    store.bindings.withdraw(C, "meter", NOW + 60)
    assert settle(store, sync(B, "k1", received_at=NOW + 70), now=NOW + 70) == [Outcome.REFUSED]
    assert state(store, held) == "refused"


def test_what_is_held_again_after_its_hold_was_closed_has_a_new_one(store: Store, held: int) -> None:
    register(store, C, "meter")
    settle(store, sync(C, "k1"))  # so that the holds of the key are looked at
    store.registrations.remove(B, ["meter"], NOW + 50)
    register(store, B, "meter")
    assert settle(store, sync(B, "k1", received_at=NOW + 60), now=NOW + 60) == [Outcome.HELD]
    assert [hold["mdn"] for hold in open_holds(store)] == [C, B]
    assert state(store, held) == "closed"


def test_refusal_ends_with_a_binding_that_ends_in_the_same_batch(open_store: Any) -> None:
    policy = SyncPolicy(on_sim_change=OnConflict.MOVED)
    store = open_store(policy)
    import_keys(store, "k1", "k2")
    for mdn in (A, B, C):
        register(store, mdn, "meter")
    settle(store, sync(A, "k1"), sync(B, "k2"), sync(B, "k1"))
    (hold,) = open_holds(store)
    store.holds.refuse(hold["hold"], "eve", NOW)
    assert settle(store, sync(C, "k2"), sync(B, "k1"), now=NOW + 1) == [Outcome.MOVED, Outcome.MOVED]
    assert state(store, hold["hold"]) == "closed"


def test_later_binding_of_the_same_key_and_place_closes_the_hold(store: Store, held: int) -> None:
    store.holds.approve(held, "adam")
    store.bindings.withdraw(A, "meter", NOW + 50)
    store.keys.revoke("k2", None, NOW + 50, compromised=False)
    assert settle(store, sync(B, "k1", received_at=NOW + 60), now=NOW + 60) == [Outcome.BOUND]
    assert state(store, held) == "closed"
    assert store.settle_again(NOW + 999) == []


@pytest.mark.parametrize("wish", ["approve", "refuse"])
def test_hold_is_settled_once(store: Store, held: int, wish: str) -> None:
    store.holds.refuse(held, "eve", NOW)
    with pytest.raises(NotPossible, match=f"hold {held} is refused"):
        store.holds.approve(held, "a") if wish == "approve" else store.holds.refuse(held, "a", NOW)
    with pytest.raises(NotPossible, match="hold 99 does not exist"):
        store.holds.approve(99, "a")


def test_holds_are_listed_in_pages(store: Store) -> None:
    import_keys(store, *[f"k{number}" for number in range(7)])
    register(store, A, "meter")
    settle(store, *[sync(A, f"k{number}") for number in range(7)])
    pages, after = [], 0
    while page := store.holds.listing(after=after, limit=4):
        pages.append([hold["key_id"] for hold in page])
        after = page[-1]["hold"]
    assert pages == [["k1", "k2", "k3", "k4"], ["k5", "k6"]]


def test_one_key_fills_no_more_than_its_share_of_the_list(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knows a key ID and forges senders must neither hide the other holds nor slow down intake."""
    monkeypatch.setattr(holding, "HOLDS_PER_KEY", 2)
    import_keys(store, "k1", "k2")
    others = [f"86139000001{number:02}" for number in range(4)]
    for mdn in (A, *others):
        register(store, mdn, "meter")
    settle(store, sync(A, "k1"), sync(others[3], "k2"))
    forged = [sync(mdn, "k1", received_at=NOW + 1) for mdn in others]
    assert settle(store, *forged, now=NOW + 1) == [Outcome.HELD] * 4
    assert [hold["mdn"] for hold in open_holds(store)] == others[:2]
    store.holds.refuse(open_holds(store)[0]["hold"], "eve", NOW + 2)
    settle(store, *forged, now=NOW + 2)
    assert [hold["mdn"] for hold in open_holds(store)] == others[1:3]
    assert settle(store, sync(A, "k2", received_at=NOW + 3), now=NOW + 3) == [Outcome.HELD]
    assert len(open_holds(store)) == 3
