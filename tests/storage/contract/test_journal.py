"""The journal as people read it: the newest entry first."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.storage import Store
from tests.storage.stock import HOUR, NOW, A, B, import_keys, register, settle, sync

pytestmark = pytest.mark.usefixtures("small_steps")


@pytest.fixture(autouse=True)
def _seven_hours(store: Store) -> None:
    """One entry an hour: of A in the first and the last, of B in all between."""
    register(store, A, "meter")
    register(store, B, "meter")
    for hour in range(7):
        settle(store, sync(A if hour in (0, 6) else B, "nobody"), now=NOW + hour * HOUR)


def hours(entries: list[dict[str, int]]) -> list[int]:
    return [(entry["at"] - NOW) // HOUR for entry in entries]


def test_newest_entry_comes_first(store: Store) -> None:
    assert hours(store.journal.listing(limit=100)) == [6, 5, 4, 3, 2, 1, 0]


def test_entries_of_one_number_are_found_however_many_lie_between(store: Store) -> None:
    assert hours(store.journal.listing(mdn=A, limit=100)) == [6, 0]
    assert hours(store.journal.listing(mdn=B, limit=100)) == [5, 4, 3, 2, 1]
    assert store.journal.listing(mdn="8613900000099", limit=100) == []


def test_entries_of_one_link_or_outcome_are_found_however_many_lie_between(store: Store) -> None:
    import_keys(store, "k1")
    settle(store, replace(sync(A, "k1"), link="south"), now=NOW + 7 * HOUR)
    settle(store, sync(B, "nobody"), now=NOW + 8 * HOUR)
    settle(store, sync(A, "k1"), now=NOW + 9 * HOUR)
    assert hours(store.journal.listing(link="south", limit=100)) == [7]
    assert hours(store.journal.listing(link="north", limit=100)) == [9, 8, 6, 5, 4, 3, 2, 1, 0]
    assert hours(store.journal.listing(outcome=Outcome.BOUND, limit=100)) == [7]
    assert hours(store.journal.listing(outcome=Outcome.UNKNOWN_KEY, limit=2)) == [8, 6]
    assert hours(store.journal.listing(outcome=Outcome.ALREADY_BOUND, link="north", mdn=A, limit=100)) == [9]
    assert store.journal.listing(outcome=Outcome.BOUND, link="north", limit=100) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
def test_pages_join_without_a_gap(store: Store, limit: int) -> None:
    found: list[int] = []
    before = None
    while page := store.journal.listing(mdn=B, before=before, limit=limit):
        assert len(page) <= limit
        found += hours(page)
        before = page[-1]["entry"]
    assert found == [5, 4, 3, 2, 1]


def test_search_ends_at_its_limit(store: Store) -> None:
    assert hours(store.journal.listing(mdn=A, limit=1)) == [6]
    assert hours(store.journal.listing(limit=3)) == [6, 5, 4]


def test_last_hour_is_that_of_the_clock_that_was_ahead(store: Store) -> None:
    settle(store, sync(B, "nobody"), now=NOW + 30 * HOUR)
    settle(store, sync(B, "nobody"), now=NOW + 7 * HOUR)
    assert store.journal.last_hour() == NOW // HOUR + 30


def test_empty_journal_has_no_entries(open_store: Any) -> None:
    journal = open_store(name="new").journal
    assert (journal.listing(limit=1), journal.last_hour()) == ([], None)
