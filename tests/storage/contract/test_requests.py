"""Requests of the business system: done once, answered each time with the same."""

from __future__ import annotations

import hashlib

import pytest

from kmp_smsd.storage import Store, StoreUnavailable, requests
from kmp_smsd.storage.requests import Add, Fault, Remove, Renumber, Request, Result
from kmp_smsd.storage.subscribers import APPS_AT_ONCE
from tests.storage.stock import HOUR, NOW, A, B, C, bound, import_keys, register, settle, sync, wanted

LATER = NOW + HOUR


def asked(id: str | None, wish: Add | Remove | Renumber | Fault) -> Request:
    return Request(id, hashlib.sha256(repr((id, wish)).encode()).digest(), wish)


def apply(store: Store, *wishes: Request, now: int = NOW) -> list[Result]:
    """All results, in however many transactions."""
    results: list[Result] = []
    while len(results) < len(wishes):
        some = store.requests.apply(wishes[len(results) :], now)
        assert some
        results += some
    return results


def registered(store: Store) -> set[tuple[str, str]]:
    return {(row["mdn"], row["app_id"]) for row in store.registrations.listing(limit=10_000)}


LIFE = (
    asked("1", Add(A, ("meter", "tracker"))),
    asked("2", Add(A, ("meter", "alarm"))),
    asked("3", Remove(A, ("tracker", "other"))),
    asked("4", Renumber(A, B)),
    asked("5", Renumber(A, B)),
    asked("6", Add(A, ("meter",))),
    asked("7", Renumber(A, B)),
    asked("8", Remove(A, None)),
    asked("9", Remove(C, ("meter",))),
)
RESULTS = [
    {"result": "done", "added": 2, "unchanged": 0},
    {"result": "done", "added": 1, "unchanged": 1},
    {"result": "done", "removed": 1, "unchanged": 1, "bindings": 0},
    {"result": "done", "registrations": 2, "bindings": 0},
    {"result": "refused", "reason": "the old number has no registration: register the new one instead"},
    {"result": "done", "added": 1, "unchanged": 0},
    {
        "result": "refused",
        "reason": "the new number has registrations of its own: remove them first, or take another number",
    },
    {"result": "done", "removed": 1, "unchanged": 0, "bindings": 0},
    {"result": "done", "removed": 0, "unchanged": 1, "bindings": 0},
]


@pytest.mark.parametrize("rows", [1, 4, 3_000])
def test_requests_are_done_in_order_however_they_are_cut_into_transactions(
    store: Store, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(requests, "BATCH_ROWS", rows)
    assert apply(store, *LIFE) == RESULTS
    assert registered(store) == {(B, "meter"), (B, "alarm")}


def test_transaction_takes_a_further_request_until_it_has_changed_enough(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = [asked(str(number), Add(f"861390000010{number}", ("meter",))) for number in range(6)]
    before = store._database.connection.total_changes
    apply(store, alike[0])
    monkeypatch.setattr(requests, "BATCH_ROWS", 2 * (store._database.connection.total_changes - before))
    assert len(store.requests.apply(alike[1:], NOW)) == 2


def test_requests_that_change_nothing_are_so_many_in_a_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BATCH_ROWS", 2)
    assert len(store.requests.apply([asked(None, Fault("no such app"))] * 5, NOW)) == 2


def test_request_that_comes_again_gets_its_result_and_nothing_is_done(store: Store) -> None:
    apply(store, *LIFE)
    register(store, C, "meter")
    store.registrations.remove(B, ["alarm"], LATER)
    before = registered(store)
    assert apply(store, *LIFE, now=LATER) == RESULTS
    assert apply(store, *LIFE, LIFE[0], now=LATER) == [*RESULTS, RESULTS[0]]
    assert registered(store) == before


def test_one_id_twice_in_one_batch_is_one_request(store: Store) -> None:
    first = asked("1", Add(A, ("meter",)))
    results = apply(store, first, asked("2", Remove(A, None)), first, asked("1", Add(B, ("meter",))))
    assert [result["result"] for result in results] == ["done", "done", "done", "error"]
    assert results[2] == results[0]
    assert registered(store) == set()


def test_another_request_under_an_id_is_an_error_and_not_done(store: Store) -> None:
    apply(store, asked("1", Add(A, ("meter",))))
    (result,) = apply(store, asked("1", Add(A, ("tracker",))))
    assert result == {"result": "error", "reason": "this ID was given to another request: take a new one for each"}
    assert registered(store) == {(A, "meter")}


def test_error_is_not_remembered_and_stops_nothing(store: Store) -> None:
    bad = Fault("no such app")
    results = apply(store, asked("1", bad), asked(None, bad), asked("2", Add(B, ("meter",))))
    assert results == [{"result": "error", "reason": "no such app"}] * 2 + [RESULTS[5]]
    assert apply(store, asked("1", Add(A, ("meter",)))) == [RESULTS[5]]


def test_line_that_was_good_once_has_its_result_though_it_is_none_any_more(store: Store) -> None:
    """The numbering plan changed between a line and its repetition."""
    good = asked("1", Add(A, ("meter",)))
    apply(store, good)
    assert apply(store, Request("1", good.digest, Fault("no legal number"))) == [RESULTS[5]]


def test_bindings_end_and_follow_as_by_the_commands(store: Store) -> None:
    import_keys(store, "k1", "k2")
    apply(store, asked("1", Add(A, ("meter",))), asked("2", Add(C, ("meter",))))
    settle(store, sync(A, "k1"), sync(C, "k2"))
    results = apply(store, asked("3", Renumber(A, B)), asked("4", Remove(C, ("meter",))), now=LATER)
    assert [result["bindings"] for result in results] == [1, 1]
    assert bound(store) == {(B, "meter"): "k1"}
    assert wanted(store) == {(A, "meter", ""): None, (B, "meter", ""): "k1", (C, "meter", ""): None}


def test_waiting_request_is_decided_after_a_request_as_after_the_command(store: Store) -> None:
    import_keys(store, "k1")
    settle(store, sync(A, "k1"))
    apply(store, asked("1", Add(A, ("meter",))), now=LATER)
    assert store.settle_again(LATER) == ["bound"]


def test_what_cannot_be_removed_in_one_transaction_is_refused(store: Store) -> None:
    register(store, A, *[f"app-{number}" for number in range(APPS_AT_ONCE + 1)])
    (result,) = apply(store, asked("1", Remove(A, None)))
    assert result["reason"] == "the number has more than 250 registrations: remove some of them by name first"
    assert len(registered(store)) == APPS_AT_ONCE + 1


def test_transaction_that_fails_does_nothing_and_remembers_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(requests, "renumber", broken)
        with pytest.raises(StoreUnavailable):
            apply(store, *LIFE)
    assert registered(store) == set()
    assert apply(store, *LIFE) == RESULTS


@pytest.mark.usefixtures("small_steps")
def test_requests_are_forgotten_after_their_time_in_steps(store: Store) -> None:
    for number in range(5):
        apply(store, asked(str(number), Add(A, ("meter",))), now=NOW + number)
    steps = []
    while step := store.requests.expire(NOW + 4):
        steps.append(step)
    assert steps == [2, 2]
    again = apply(store, *[asked(str(number), Add(B, ("meter",))) for number in (3, 4)], now=LATER)
    assert [result["result"] for result in again] == ["done", "error"]
