"""What ends a binding without a message, and what destroys a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage import Store
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.outbox import Confirm, Postpone
from tests.storage.stock import (
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
    reject_all,
    row_at,
    settle,
    sync,
    wanted,
)

ENDINGS: dict[str, Callable[[Store], object]] = {
    "registration removed": lambda store: store.registrations.remove(A, ["meter"], NOW + 10),
    "key deactivated": lambda store: store.keys.revoke("k1", "old", NOW + 10, compromised=False),
    "key compromised": lambda store: store.keys.revoke("k1", "stolen", NOW + 10, compromised=True),
    "withdrawn": lambda store: store.bindings.withdraw(A, "meter", NOW + 10),
}


@pytest.fixture(autouse=True)
def _one_bound(store: Store) -> None:
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2")
    register(store, A, "meter", "tracker")
    assert settle(store, sync(A, "k1", "meter")) == [Outcome.BOUND]


OTHER_ENDINGS: dict[str, Callable[[Store], object]] = {
    **ENDINGS,
    "key suspended": lambda store: store.keys.suspend("k1", "stolen?"),
    "key destroyed": lambda store: store.keys.destroy("k4", NOW + 10),
    "last registration removed": lambda store: store.registrations.remove(C, ["meter"], NOW + 10),
}


@pytest.mark.parametrize("end", OTHER_ENDINGS.values(), ids=OTHER_ENDINGS)
def test_what_ends_changes_nothing_of_another_number_app_or_key(store: Store, end: Callable[[Store], object]) -> None:
    register(store, B, "meter")
    import_keys(store, "k3", "k4")
    register(store, C, "meter")
    settle(store, sync(B, "k2"), sync(A, "k3", "tracker"))
    settle(store, *(sync(mdn, "later") for mdn in (A, B, C)), sync(B, "k1", "alarm"))

    def others() -> list[Any]:
        return [
            [row for row in due(store) if row.mdn == B],  # with the key's octets
            {place: key for place, key in bound(store).items() if place != (A, "meter")},
            [store.keys.get(key_id) for key_id in ("k2", "k3")],
            [(row["mdn"], row["key_id"]) for row in store.waiting.listing(limit=10) if row["mdn"] != C],
            [row["mdn"] for row in store.registrations.listing(mdn=B, limit=10)],
        ]

    before = others()
    end(store)
    assert others() == before
    assert list(map(len, before)) == [1, 2, 2, 3, 1]


@pytest.mark.parametrize("ending", ENDINGS)
def test_ending_withdraws_the_binding_and_wants_nothing(store: Store, ending: str) -> None:
    confirm_all(store)
    before = row_at(store, A)["wanted_version"]
    ENDINGS[ending](store)
    assert bound(store) == {}
    assert wanted(store) == {(A, "meter", "metering"): None}
    assert row_at(store, A)["wanted_version"] > before
    (binding,) = store.bindings.of(A)
    assert (binding["state"], binding["ended_at"]) == ("withdrawn", NOW + 10)
    (row,) = due(store, now=NOW + 10)
    assert row.key is None


@pytest.mark.parametrize("ending", ENDINGS)
def test_ending_wants_nothing_at_the_old_platform_of_an_app_that_moves(store: Store, ending: str) -> None:
    store.routes.set({"meter": "elsewhere"})
    ENDINGS[ending](store)
    assert set(wanted(store).values()) == {None}
    assert sum(store.routes.move(NOW + 20)) == 0


def test_ending_leaves_alone_the_old_platform_that_has_confirmed_a_move(store: Store) -> None:
    store.routes.set({"meter": "elsewhere"})
    sum(store.routes.move(NOW + 1))
    confirm_all(store, now=NOW + 1)
    before = row_at(store, A, platform="metering")
    ENDINGS["withdrawn"](store)
    assert row_at(store, A, platform="metering") == before


def test_end_of_the_registration_closes_the_holds_there(store: Store) -> None:
    assert settle(store, sync(A, "k2", "meter")) == [Outcome.HELD]
    ENDINGS["registration removed"](store)
    (hold,) = store.holds.listing(everything=True, limit=9)
    assert (hold["state"], hold["settled_at"]) == ("closed", NOW + 10)


def test_withdrawal_makes_room_for_what_is_held(store: Store) -> None:
    assert settle(store, sync(A, "k2", "meter")) == [Outcome.HELD]
    ENDINGS["withdrawn"](store)
    assert len(open_holds(store)) == 1


def test_revoking_a_key_closes_its_holds(store: Store) -> None:
    register(store, B, "meter")
    assert settle(store, sync(B, "k1")) == [Outcome.HELD]
    store.keys.revoke("k1", None, NOW, compromised=False)
    assert open_holds(store) == []


def test_withdrawn_terminal_binds_again_with_its_next_message(store: Store) -> None:
    store.bindings.withdraw(A, "meter", NOW + 10)
    assert settle(store, sync(A, "k1", "meter"), now=NOW + 20) == [Outcome.BOUND]
    shown = [(row["state"], row["platform"]) for row in store.bindings.of(A)]
    assert shown == [("bound", "metering"), ("withdrawn", None)]
    with pytest.raises(NotPossible, match="has no binding for tracker"):
        store.bindings.withdraw(A, "tracker", NOW)


def test_removing_one_registration_leaves_the_other(store: Store) -> None:
    assert settle(store, sync(A, "k2", "tracker")) == [Outcome.BOUND]
    assert store.registrations.remove(A, ["meter", "alarm"], NOW + 10) == ["meter"]
    assert bound(store) == {(A, "tracker"): "k2"}
    assert store.registrations.remove(B, ["meter"], NOW + 10) == []


def test_suspended_key_stays_bound_but_binds_nothing_new(store: Store) -> None:
    store.keys.suspend("k1", "audit")
    assert bound(store) == {(A, "meter"): "k1"}
    assert settle(store, sync(A, "k1", "tracker")) == [Outcome.KEY_NOT_USABLE]
    store.keys.resume("k1", NOW)
    assert settle(store, sync(A, "k1", "meter")) == [Outcome.ALREADY_BOUND]


def test_resumed_key_s_delivery_is_tried_at_once(store: Store) -> None:
    store.keys.suspend("k1", "audit")
    (row,) = due(store)
    store.outbox.settle("metering", [Postpone(row, NOW + 3_600_000, "suspended")], NOW)
    assert due(store) == []
    store.keys.resume("k1", NOW)
    assert [one.attempts for one in due(store)] == [0]


def test_resumed_key_s_delivery_is_tried_at_once_where_the_key_is_bound_now(store: Store) -> None:
    store.bindings.withdraw(A, "meter", NOW + 1)
    confirm_all(store, now=NOW + 1)
    store.routes.set({"tracker": "fleet"})
    settle(store, sync(A, "k1", "tracker", received_at=NOW + 2), now=NOW + 2)
    store.keys.suspend("k1", "audit")
    (row,) = due(store, "fleet", NOW + 2)
    store.outbox.settle("fleet", [Postpone(row, NOW + 3_600_000, "suspended")], NOW + 2)
    store.keys.resume("k1", NOW + 3)
    assert [one.attempts for one in due(store, "fleet", NOW + 3)] == [0]


@pytest.mark.parametrize(
    ("wishes", "present"),
    [
        (["resume"], "live"),
        (["suspend", "suspend"], "suspended"),
        (["compromise", "revoke"], "compromised"),
        (["revoke", "revoke"], "deactivated"),
        (["revoke", "suspend"], "deactivated"),
        (["revoke", "resume"], "deactivated"),
        (["destroy", "resume"], "destroyed"),
        (["destroy", "compromise"], "destroyed"),
        (["destroy", "destroy"], "destroyed"),
    ],
)
def test_key_s_state_goes_one_way(store: Store, wishes: list[str], present: str) -> None:
    wish: dict[str, Callable[[], object]] = {
        "suspend": lambda: store.keys.suspend("k2", None),
        "resume": lambda: store.keys.resume("k2", NOW),
        "revoke": lambda: store.keys.revoke("k2", None, NOW, compromised=False),
        "compromise": lambda: store.keys.revoke("k2", None, NOW, compromised=True),
        "destroy": lambda: store.keys.destroy("k2", NOW),
    }
    for one in wishes[:-1]:
        wish[one]()
    with pytest.raises(NotPossible, match=rf"key k2 is ({present} (already|and cannot become)|not suspended)"):
        wish[wishes[-1]]()


def test_deactivated_key_may_turn_out_to_be_compromised(store: Store) -> None:
    store.keys.revoke("k1", "old", NOW, compromised=False)
    assert store.keys.revoke("k1", "stolen", NOW, compromised=True) == 0
    assert store.keys.get("k1")["state"] == "compromised"  # type: ignore[index]


def test_nobody_s_key_cannot_be_changed(store: Store) -> None:
    with pytest.raises(NotPossible, match="no key nobody"):
        store.keys.suspend("nobody", None)


# Destroying


def test_bound_key_cannot_be_destroyed(store: Store) -> None:
    with pytest.raises(NotPossible, match="is bound"):
        store.keys.destroy("k1", NOW)
    assert store.keys.get("k1")["state"] == "active"  # type: ignore[index]


def test_key_that_a_platform_may_hold_cannot_be_destroyed(store: Store) -> None:
    """Delivered and confirmed, then revoked: the platform has not confirmed that it holds nothing."""
    confirm_all(store)
    store.keys.revoke("k1", "stolen", NOW + 10, compromised=True)
    with pytest.raises(NotPossible, match=f"platform metering has not confirmed {A} meter"):
        store.keys.destroy("k1", NOW)
    reject_all(store, now=NOW + 10)
    with pytest.raises(NotPossible, match="has not confirmed"):
        store.keys.destroy("k1", NOW)
    store.renewing.retry(NOW + 20)
    confirm_all(store, now=NOW + 20)
    store.keys.destroy("k1", NOW)
    key = store.keys.get("k1")
    assert key is not None
    assert (key["state"], key["reason"]) == ("destroyed", "stolen")


def test_key_that_only_an_old_confirmation_says_is_gone_cannot_be_destroyed(store: Store) -> None:
    (bind,) = due(store)
    store.keys.revoke("k1", None, NOW + 10, compromised=False)
    store.outbox.settle("metering", [Confirm(bind)], NOW + 11)  # the bind was under way
    with pytest.raises(NotPossible, match="has not confirmed"):
        store.keys.destroy("k1", NOW)


def test_key_left_at_the_old_platform_of_an_app_that_moves_cannot_be_destroyed(store: Store) -> None:
    confirm_all(store)
    store.routes.set({"meter": "elsewhere"})
    store.keys.revoke("k1", None, NOW + 10, compromised=False)
    confirm_all(store, "elsewhere", NOW + 10)
    with pytest.raises(NotPossible, match="platform metering has not confirmed"):
        store.keys.destroy("k1", NOW)


def test_superseded_key_left_at_the_old_platform_cannot_be_destroyed(open_store: Any) -> None:
    """Its place has another key now, confirmed by the new platform; the old one has not been told yet."""
    store = open_store(MOVING)
    confirm_all(store)
    store.routes.set({"meter": "elsewhere"})
    assert settle(store, sync(A, "k2", "meter"), now=NOW + 1) == [Outcome.MOVED]
    confirm_all(store, "elsewhere", NOW + 1)
    with pytest.raises(NotPossible, match="platform metering has not confirmed"):
        store.keys.destroy("k1", NOW + 2)
    sum(store.routes.move(NOW + 2))
    confirm_all(store, "metering", NOW + 2)
    confirm_all(store, "elsewhere", NOW + 2)  # the new key, wanted again above the old one's withdrawal
    store.keys.destroy("k1", NOW + 3)


def test_destroyed_key_is_known_and_never_bound_again(store: Store) -> None:
    store.keys.destroy("k2", NOW)
    assert settle(store, sync(A, "k2", "tracker")) == [Outcome.KEY_NOT_USABLE]


def test_request_of_a_number_s_former_owner_binds_nothing_to_the_next(store: Store) -> None:
    import_keys(store, "k3")
    assert settle(store, sync(A, "k3", "alarm")) == [Outcome.APP_NOT_REGISTERED]
    store.registrations.remove(A, ["meter", "tracker"], NOW + 1)
    register(store, A, "alarm", now=NOW + 2)
    assert store.settle_again(NOW + 3) == []
    assert bound(store) == {}


def test_request_that_waited_before_a_withdrawal_does_not_bind_the_key_again(store: Store) -> None:
    assert settle(store, sync(A, "k1", "alarm")) == [Outcome.APP_NOT_REGISTERED]
    store.bindings.withdraw(A, "meter", NOW + 1)
    register(store, A, "alarm", now=NOW + 2)
    assert store.settle_again(NOW + 3) == []
    assert settle(store, sync(A, "k1", "alarm", received_at=NOW + 4), now=NOW + 4) == [Outcome.BOUND]
