"""Requests that a gateway hands in: kept by a command, decided by intake, answered once."""

from __future__ import annotations

from typing import Any

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store
from kmp_smsd.storage.rows import STEP_ROWS
from kmp_smsd.storage.submissions import Answer
from tests.storage.stock import HOUR, NOW, A, B, C, bound, import_keys, journalled, open_holds, register, settle, sync

LENIENT = SyncPolicy(on_sim_change=OnConflict.MOVED)


def test_submitted_request_is_decided_by_intake_and_answered(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    (number,) = store.submissions.submit([sync(A, "k1", link="data")], NOW)
    assert store.submissions.answers([number]) == {}
    assert bound(store) == {}
    assert store.settle_again(NOW + 1) == [Outcome.BOUND]
    assert store.submissions.answers([number]) == {number: Answer(Outcome.BOUND, "meter", "")}
    assert bound(store) == {(A, "meter"): "k1"}
    assert store.journal.listing(limit=1)[0]["link"] == "data"
    assert store.settle_again(NOW + 2) == []


def test_submissions_are_decided_in_their_order_and_each_is_answered(store: Store) -> None:
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    asked = [
        sync(A, "k1", link="data"),
        sync(A, "k1", link="data"),
        sync(A, "k2", link="data"),
        sync(B, "k9", link="data"),
    ]
    numbers = store.submissions.submit(asked, NOW)
    store.settle_again(NOW)
    answers = store.submissions.answers(numbers)
    assert [answers[number].outcome for number in numbers] == [
        Outcome.BOUND, Outcome.ALREADY_BOUND, Outcome.HELD, Outcome.NOT_REGISTERED,
    ]  # fmt: skip
    assert answers[numbers[2]].why == "another key is bound here"


def test_no_more_comes_again_at_once_than_is_asked_for(store: Store) -> None:
    """Approved holds, what waited, and what was submitted count together."""
    import_keys(store, "k1", "k2", "k3", "k4")
    register(store, A, "meter")
    settle(store, sync(A, "k1"), sync(A, "k2"), sync(B, "k3"), sync(C, "k4"))
    (hold,) = open_holds(store)
    store.holds.approve(hold["hold"], "adam")
    for mdn in (B, C):
        register(store, mdn, "meter")
    store.submissions.submit([sync(mdn, key, link="data") for mdn, key in ((B, "k3"), (C, "k4"))], NOW)
    assert [store._settling.settle_again(NOW, 2) for _ in range(4)] == [
        [Outcome.MOVED, Outcome.BOUND],
        [Outcome.BOUND, Outcome.ALREADY_BOUND],
        [Outcome.ALREADY_BOUND],
        [],
    ]


def test_gateway_has_a_policy_of_its_own(open_store: Any) -> None:
    store = open_store(SyncPolicy(gateways={"data": LENIENT, "other": SyncPolicy()}))
    import_keys(store, "k1")
    for mdn in (A, B):
        register(store, mdn, "meter")
    settle(store, sync(A, "k1"))
    assert settle(store, sync(B, "k1", received_at=NOW + 1)) == [Outcome.HELD]
    store.submissions.submit([sync(B, "k1", link="other", received_at=NOW + 2)], NOW + 2)
    assert store.settle_again(NOW + 2) == [Outcome.HELD]
    store.submissions.submit([sync(B, "k1", link="data", received_at=NOW + 3)], NOW + 3)
    assert store.settle_again(NOW + 3) == [Outcome.MOVED]
    assert open_holds(store) == []


def test_gateway_with_a_longer_memory_of_replaced_keys(open_store: Any) -> None:
    store = open_store(SyncPolicy(on_terminal_change=OnConflict.MOVED, late_hours=1, gateways={"data": SyncPolicy()}))
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    settle(store, sync(A, "k1"), sync(A, "k2", received_at=NOW + 1))
    store.bindings.withdraw(A, "meter", NOW + 2)
    store.submissions.submit([sync(A, "k1", link="data", received_at=NOW + 5 * HOUR)], NOW + 5 * HOUR)
    assert store.settle_again(NOW + 5 * HOUR) == [Outcome.HELD]
    assert settle(store, sync(A, "k1", received_at=NOW + 6 * HOUR), now=NOW + 6 * HOUR) == [Outcome.BOUND]


def test_submission_that_lacks_something_waits_like_a_message(store: Store) -> None:
    import_keys(store, "k1")
    proof = Proof(5, "0" * 13)
    request = SyncRequest(mdn=A, key_id="k1", app_id="meter", proof=proof, received_at=NOW, link="data")
    (number,) = store.submissions.submit([request], NOW)
    store.settle_again(NOW)
    assert store.submissions.answers([number])[number].outcome is Outcome.NOT_REGISTERED
    register(store, A, "meter", now=NOW + 1)
    assert store.settle_again(NOW + 1) == [Outcome.BOUND]
    assert journalled(store) == [(A, "not_registered"), (A, "bound")]
    assert store.submissions.answers([number])[number].outcome is Outcome.NOT_REGISTERED  # what was told stays told


def test_answer_that_was_told_is_forgotten_and_an_open_one_never(store: Store) -> None:
    import_keys(store, "k1")
    first, second = store.submissions.submit([sync(A, "k1", link="data")] * 2, NOW)
    store.submissions.forget([first, second])
    assert len(store.settle_again(NOW)) == 2
    store.submissions.forget([first])
    assert list(store.submissions.answers([first, second])) == [second]
    assert store.submissions.expire(NOW) == 0
    third, *_ = store.submissions.submit([sync(A, "k1", link="data", received_at=NOW + 1)], NOW + 1)
    assert store.submissions.expire(NOW + 2) == 1
    assert list(store.submissions.answers([second])) == []
    store.settle_again(NOW + 3)
    assert list(store.submissions.answers([third])) == [third]


def test_number_of_a_submission_is_given_once(store: Store) -> None:
    """Whoever waits for an answer must not get that of another: the newest one may be erased with its number."""
    (first,) = store.submissions.submit([sync(A, "k1", link="data")], NOW)
    assert store.submissions.undecided([first]) == {first}
    store.erasing.erase(A, NOW)
    assert store.submissions.undecided([first]) == set()
    (second,) = store.submissions.submit([sync(B, "k1", link="data")], NOW)
    store.settle_again(NOW)
    assert second != first
    assert list(store.submissions.answers([first, second])) == [second]


def test_submission_of_a_former_owner_binds_nothing_to_the_next_one(open_store: Any) -> None:
    store = open_store(SyncPolicy(gateways={"data": LENIENT}))
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    register(store, B, "meter")
    number, other = store.submissions.submit([sync(A, "k1", link="data"), sync(B, "k2", link="data")], NOW)
    store.registrations.remove(A, ["meter"], NOW + 1)
    register(store, A, "meter", now=NOW + 2)
    assert store.settle_again(NOW + 3) == [Outcome.BOUND]
    assert bound(store) == {(B, "meter"): "k2"}
    answers = store.submissions.answers([number, other])
    assert (answers[number].outcome, answers[other].outcome) == (Outcome.NOT_REGISTERED, Outcome.BOUND)


def test_submission_under_a_number_that_was_renumbered_moves_nothing_back(open_store: Any) -> None:
    store = open_store(SyncPolicy(gateways={"data": LENIENT}))
    import_keys(store, "k1")
    register(store, A, "meter")
    settle(store, sync(A, "k1"))
    (number,) = store.submissions.submit([sync(A, "k1", link="data", received_at=NOW + 1)], NOW + 1)
    store.renumbering.renumber(A, B, NOW + 2)
    store.settle_again(NOW + 3)
    register(store, A, "meter", now=NOW + 4)
    store.settle_again(NOW + 5)
    assert bound(store) == {(B, "meter"): "k1"}
    assert store.submissions.answers([number])[number].outcome is Outcome.NOT_REGISTERED


def test_older_submission_that_is_decided_later_does_not_wait_in_place_of_a_newer_message(store: Store) -> None:
    import_keys(store, "k1")
    register(store, A, "x")
    store.submissions.submit([sync(A, "k1", "old", link="data")], NOW)
    settle(store, sync(A, "k1", "new", received_at=NOW + HOUR), now=NOW + HOUR)
    store.settle_again(NOW + HOUR + 1)
    assert [(row["app_id"], row["received_at"]) for row in store.waiting.listing(limit=9)] == [("new", NOW + HOUR)]


def test_gateway_that_was_not_known_at_the_start_waits_for_its_policy(
    open_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(SyncPolicy(on_sim_change=OnConflict.MOVED)) as store:
        import_keys(store, "k1")
        for mdn in (A, B):
            register(store, mdn, "meter")
        settle(store, sync(A, "k1"))
        store.submissions.submit([sync(B, "k1", link="strict", received_at=NOW + 1)], NOW + 1)
        for _ in range(2):
            assert store.settle_again(NOW + 2) == []
        (said,) = [record.getMessage() for record in caplog.records]
        assert "gateway strict is not in the configuration" in said
    strict = SyncPolicy(on_sim_change=OnConflict.REFUSED)
    store = open_store(SyncPolicy(on_sim_change=OnConflict.MOVED, gateways={"strict": strict}))
    assert store.settle_again(NOW + 3) == [Outcome.REFUSED]
    assert bound(store) == {(A, "meter"): "k1"}


def test_submissions_are_kept_in_steps(store: Store) -> None:
    asked = [sync(A, "k1", link="data") for _ in range(2 * STEP_ROWS + 1)]
    numbers = store.submissions.submit(asked, NOW)
    assert len(numbers) == len(store.submissions.undecided(numbers)) == len(asked)
    assert numbers == sorted(numbers)


def test_those_that_nobody_decides_keep_none_behind_them_from_being_forgotten(store: Store) -> None:
    undecided = [sync(A, f"k{number}", link="unknown gateway") for number in range(STEP_ROWS + 1)]
    store.submissions.submit(undecided, NOW)
    decided = [sync(B, "k1", link="data") for _ in range(STEP_ROWS + 1)]
    numbers = store.submissions.submit(decided, NOW)
    while store.settle_again(NOW):
        pass
    assert [store.submissions.expire(NOW + 1) for _ in range(3)] == [STEP_ROWS, 1, 0]
    assert store.submissions.answers(numbers) == {}


def test_gateway_that_a_reload_makes_known_is_decided_by_its_policy(
    open_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    moving = SyncPolicy(on_sim_change=OnConflict.MOVED)
    store = open_store(moving)
    import_keys(store, "k1")
    for mdn in (A, B):
        register(store, mdn, "meter")
    settle(store, sync(A, "k1"))
    store.submissions.submit([sync(B, "k1", link="strict", received_at=NOW + 1)], NOW + 1)
    assert store.settle_again(NOW + 2) == []
    store.set_policy(moving)  # which does not have it either, and that is said again
    for _ in range(2):
        assert store.settle_again(NOW + 2) == []
    assert len(caplog.records) == 2
    store.set_policy(SyncPolicy(gateways={"strict": SyncPolicy(on_sim_change=OnConflict.REFUSED)}))
    assert store.settle_again(NOW + 3) == [Outcome.REFUSED]
    assert bound(store) == {(A, "meter"): "k1"}
    store.set_policy(moving)  # nothing waits for it any more
    assert store.settle_again(NOW + 4) == []
    assert len(caplog.records) == 2
