"""What SQLite's settling does about faults: those of one message, and those of the store."""

from __future__ import annotations

from typing import Any

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store, StoreUnavailable, settling
from kmp_smsd.storage.journal import Journal
from kmp_smsd.storage.submissions import Answer
from tests.storage.stock import NOW, A, C, bound, content, counted, import_keys, journalled, register, settle, sync


@pytest.mark.parametrize(("mdn", "key_id", "outcome"), [(A, "nobody", "unknown_key"), (C, "k1", "not_registered")])
def test_entry_that_was_not_committed_is_made_when_its_message_comes_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, mdn: str, key_id: str, outcome: str
) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")

    record = Journal.record

    def broken(*given: Any) -> None:
        record(*given)
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", broken)
        with pytest.raises(StoreUnavailable):
            settle(store, sync(mdn, key_id))
    settle(store, sync(mdn, key_id))
    assert journalled(store) == [(mdn, outcome)]


def poisoned(monkeypatch: pytest.MonkeyPatch, *key_ids: str) -> None:
    right = settling.decide

    def decide(request: SyncRequest, facts: Any) -> Any:
        if request.key_id in key_ids:
            raise ZeroDivisionError("poison")
        return right(request, facts)

    monkeypatch.setattr(settling, "decide", decide)


@pytest.mark.parametrize("position", [0, 1, 7, 12, 24])
def test_poison_message_ends_as_error_and_takes_no_neighbour_with_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    keys = [f"k{number}" for number in range(25)]
    mdns = [f"86139000001{number:02}" for number in range(25)]
    import_keys(store, *keys)
    for mdn in mdns:
        register(store, mdn, "meter")
    poisoned(monkeypatch, keys[position])
    outcomes = settle(store, *map(sync, mdns, keys))
    assert outcomes == [Outcome.ERROR if at == position else Outcome.BOUND for at in range(25)]
    assert len(bound(store)) == 24
    assert (mdns[position], "error") in journalled(store)
    assert counted(store) == {"bound": 24, "error": 1}


def test_poison_from_end_to_end_ends_all_as_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import_keys(store, "k1")
    register(store, A, "meter")
    poisoned(monkeypatch, "k1")
    assert settle(store, *[sync(A, "k1")] * 9) == [Outcome.ERROR] * 9
    assert counted(store) == {"error": 9}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), StoreUnavailable("lock")])
def test_fault_of_the_store_is_nobody_s_error(store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    before = content(store, (A,))

    def broken(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(settling, "write_holds", broken)
        with pytest.raises(StoreUnavailable):
            settle(store, sync(A, "k1"), sync(A, "k2"))
    assert content(store, (A,)) == before
    assert settle(store, sync(A, "k1")) == [Outcome.BOUND]


def test_waiting_request_that_cannot_be_settled_does_not_come_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_keys(store, "k1", "k2")
    settle(store, sync(A, "k1"))
    settle(store, sync(C, "k1"), sync(C, "k2"))
    register(store, C, "meter")
    poisoned(monkeypatch, "k1")
    found: list[Outcome] = []
    while outcomes := store.settle_again(NOW + 1):
        found += outcomes
    assert sorted(found) == [Outcome.BOUND, Outcome.ERROR]
    assert bound(store) == {(C, "meter"): "k2"}
    assert [(row["mdn"], row["key_id"]) for row in store.waiting.listing(limit=9)] == [(A, "k1")]


def test_approval_that_cannot_be_settled_is_shown_and_does_not_come_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_keys(store, "k1", "k2", "k3")
    register(store, A, "meter")
    settle(store, sync(A, "k1"), sync(A, "k2"), sync(A, "k3"))
    for hold in store.holds.listing(limit=9):
        store.holds.approve(hold["hold"], "adam")
    with monkeypatch.context() as patch:
        poisoned(patch, "k2")
        assert store.settle_again(NOW + 1) == [Outcome.ERROR]
    assert store.settle_again(NOW + 1) == [Outcome.MOVED]
    assert store.settle_again(NOW + 1) == []
    (shown,) = store.holds.listing(limit=9)
    assert (shown["state"], shown["last_outcome"], shown["deciding"]) == ("open", "error", 0)


def test_submission_that_cannot_be_settled_is_answered_and_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    told, faulty, other = (
        store.submissions.submit([sync(A, key_id, link="data")], NOW)[0] for key_id in ("k1", "k2", "k1")
    )
    poisoned(monkeypatch, "k2")
    assert store.settle_again(NOW + 1) == [Outcome.BOUND]
    assert store.settle_again(NOW + 1) == [Outcome.ERROR]
    assert store.submissions.answers([told, faulty, other]) == {
        told: Answer(Outcome.BOUND, "meter", ""),
        faulty: Answer(Outcome.ERROR, None, ""),
    }
    assert store.settle_again(NOW + 1) == [Outcome.ALREADY_BOUND]


def test_only_the_request_that_cannot_be_settled_is_answered_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody approves a hold between the transaction that failed and the one that answers."""
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    settle(store, sync(A, "k2"))
    settle(store, sync(A, "k1"), sync(C, "k1"))
    (hold,) = store.holds.listing(limit=9)
    register(store, C, "meter")
    with monkeypatch.context() as patch:

        def broken(*_: object) -> None:
            assert store._database.connection.in_transaction
            patch.setattr(settling.log, "exception", lambda *_, **__: store.holds.approve(hold["hold"], "adam"))
            raise ZeroDivisionError("poison")

        patch.setattr(settling, "decide", broken)
        assert store.settle_again(NOW + 1) == []
    assert sorted(store.settle_again(NOW + 1)) == [Outcome.HELD, Outcome.MOVED]
    assert counted(store).get("error") is None


@pytest.mark.parametrize("reply_to", ["not JSON", '["another", "version"]'])
def test_reply_address_that_cannot_be_read_holds_nobody_up(store: Store, reply_to: str) -> None:
    import_keys(store, "k1", "k2")
    settle(store, sync(A, "k1"), sync(C, "k2"))
    register(store, A, "meter")
    register(store, C, "meter")
    with store._database.transaction() as connection:
        connection.execute("UPDATE waiting SET reply_to = ? WHERE key_id = 'k1'", (reply_to,))
    assert store.settle_again(NOW + 1) == [Outcome.BOUND, Outcome.BOUND]


def test_where_nothing_comes_again_no_turn_of_writing_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import_keys(store, "k1", "k2")
    register(store, A, "meter")
    assert settle(store, sync(A, "k1"), sync(A, "k2"), sync(C, "k2")) == [
        Outcome.BOUND, Outcome.HELD, Outcome.NOT_REGISTERED,
    ]  # fmt: skip
    store.submissions.submit([sync(A, "k1", link=gateway) for gateway in ("data", "unknown")], NOW)
    assert store.settle_again(NOW + 1) == [Outcome.ALREADY_BOUND]
    monkeypatch.setattr(store._database, "transaction", lambda: 1 / 0)
    assert store.settle_again(NOW + 1) == []


def test_what_cannot_even_be_read_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import_keys(store, "k1")
    settle(store, sync(A, "k1"))
    register(store, A, "meter")
    monkeypatch.setattr(settling, "read_again", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.settle_again(NOW + 1)
