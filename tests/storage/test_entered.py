"""The memory of who has an entry of this hour: against a plain set, and against the journal that it is read from."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmp_smsd.storage import Store, StoreUnavailable, entered
from kmp_smsd.storage.entered import EnteredThisHour

SUBSCRIBERS = (1, 7, 8, 9, 4_095, 4_096, 4_097, 32_767, 32_768, 32_769, 10_000_000)

transactions = st.tuples(
    st.integers(1, 3),  # its hour
    st.lists(st.tuples(st.sampled_from(["held", "refused"]), st.sampled_from(SUBSCRIBERS)), max_size=12),
    st.booleans(),  # whether it is committed
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(transactions, max_size=12))
def test_each_is_admitted_once_in_an_hour(store: Store, taken: list[Any]) -> None:
    memory = EnteredThisHour()
    known: set[tuple[str, int]] = set()
    last = None
    for hour, asked, committed in taken:
        if hour != last:
            known.clear()
        last = hour
        memory.begin(store._database.connection, hour)
        new: set[tuple[str, int]] = set()
        for one in asked:
            assert memory.admit(*one) is (one not in known | new)
            new.add(one)
        if committed:
            memory.commit()
            known |= new


def enter(store: Store, *entries: tuple[int, int, str, int | None]) -> None:
    """Write to the journal by hand: hour, subscriber, outcome, hold."""
    with store._database.transaction() as connection:
        connection.executemany(
            "INSERT INTO journal (at, hour, subscriber, outcome, link, hold) VALUES (0, ?, ?, ?, 'north', ?)", entries
        )


def test_what_the_journal_has_of_the_hour_is_read_back(store: Store) -> None:
    enter(store, (6, 1, "held", None), (7, 2, "held", None), (7, 3, "held", 5), (7, 2, "bound", None))
    enter(store, (8, 4, "held", None), (7, 5, "refused", None))  # the clock was set back
    memory = EnteredThisHour()
    memory.begin(store._database.connection, 7)
    assert [memory.admit("held", one) for one in (1, 2, 3, 4, 5)] == [True, False, True, True, True]
    assert [memory.admit("refused", one) for one in (2, 5)] == [True, False]
    memory.begin(store._database.connection, 8)
    assert [memory.admit("held", one) for one in (1, 2, 4)] == [True, True, False]


def test_only_the_last_entries_are_read_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entered, "READ_BACK", 2)
    enter(store, *((7, number, "held", None) for number in (1, 2, 3)))
    memory = EnteredThisHour()
    memory.begin(store._database.connection, 7)
    assert [memory.admit("held", one) for one in (1, 2, 3)] == [True, False, False]


def test_hour_that_could_not_be_read_back_is_read_back_the_next_time(store: Store) -> None:
    enter(store, (7, 1, "held", None))
    memory = EnteredThisHour()
    memory.begin(store._database.connection, 7)
    with store._database.transaction() as connection:
        connection.execute("ALTER TABLE journal RENAME TO away")
    with pytest.raises(StoreUnavailable, match="no such table"), store._database.faults():
        memory.begin(store._database.connection, 8)
    with store._database.transaction() as connection:
        connection.execute("ALTER TABLE away RENAME TO journal")
    memory.begin(store._database.connection, 7)
    assert not memory.admit("held", 1)


@pytest.mark.parametrize("number", [1 << 31, (1 << 63) - 1])
def test_far_number_in_the_database_takes_no_more_memory_than_others(store: Store, number: int) -> None:
    """Made by hand: the next subscriber gets the number behind it."""
    memory = EnteredThisHour()
    memory.begin(store._database.connection, 7)
    tracemalloc.start()
    try:
        assert [memory.admit("held", one) for one in (number, number)] == [True, False]
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_entry_for_which_there_was_no_memory_is_made_when_its_message_comes_again(store: Store) -> None:
    class Full(list[Any]):
        def append(self, _: object) -> None:
            raise MemoryError

    memory = EnteredThisHour()
    memory.begin(store._database.connection, 7)
    memory._new = Full()
    with pytest.raises(MemoryError):
        memory.admit("held", 1)
    memory._new = []
    memory.begin(store._database.connection, 7)
    assert memory.admit("held", 1)
