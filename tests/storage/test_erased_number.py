"""An erased number is found nowhere: every octet of database, log and index is looked through."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import Unfit
from kmp_smsd.storage import Store, leftovers, open_store, scrubbing
from kmp_smsd.storage.connection import PAGE_OCTETS, connect
from kmp_smsd.storage.outbox import Postpone, Reject
from tests.storage.stock import HOUR, NOW, B, C, confirm_all, due, import_keys, open_holds, register, settle, sync

NUMBER = "8613912345678"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def found(path: Path, numbers: set[str]) -> set[str]:
    """Which of `numbers` stand anywhere in the files of the database."""
    octets = b"\n".join(one.read_bytes() for one in path.parent.iterdir() if one.name.startswith(path.name))
    return numbers & {match.decode() for match in re.findall(rb"(?=(8613[0-9]{9}))", octets)}


def live(store: Store) -> None:
    """NUMBER is in every place where a number can be."""
    store.routes.set({"meter": "metering"})
    import_keys(store, "k1", "k2", "k3")
    for mdn in (NUMBER, B, C):
        register(store, mdn, "meter")
    unfit = Unfit(outcome=Outcome.MALFORMED, mdn=NUMBER, received_at=NOW, link="north")
    store.settle([sync(NUMBER, "k1"), sync(B, "k1"), sync(NUMBER, "k2"), sync(NUMBER, "unknown"), unfit], NOW)
    assert {row["mdn"] for row in open_holds(store)} == {NUMBER, B}
    (row,) = due(store)
    store.outbox.settle("metering", [Postpone(row, NOW, f"busy with {NUMBER}")], NOW)
    store.outbox.settle("metering", [Reject(row, NOW, f"no room for {NUMBER}")], NOW)
    settle(store, sync(C, "k3"))
    confirm_all(store)


def test_erased_number_is_found_nowhere(path: Path, store: Store) -> None:
    live(store)
    assert found(path, {NUMBER}) == {NUMBER}
    assert not store.erasing.erase(NUMBER, NOW + 1).blanked
    assert found(path, {NUMBER}) == {NUMBER}
    confirm_all(store, now=NOW + 1)
    assert not store.finish_erasing()
    assert found(path, {NUMBER, B, C}) == {B, C}


def test_number_erased_at_once_is_found_nowhere(path: Path, store: Store) -> None:
    live(store)
    erased = store.erasing.erase(NUMBER, NOW + 1, at_once=True)
    assert erased.unconfirmed
    assert store.erasing.clear()
    assert found(path, {NUMBER, B, C}) == {B, C}


def test_number_that_was_given_up_for_another_is_found_nowhere(path: Path, store: Store) -> None:
    live(store)
    new = "8613912345679"
    store.renumbering.renumber(NUMBER, new, NOW + 1)
    assert found(path, {NUMBER}) == {NUMBER}
    assert store.erasing.erase(NUMBER, NOW + 2).unconfirmed
    confirm_all(store, now=NOW + 2)
    store.finish_erasing()
    assert found(path, {NUMBER, new}) == {new}


def test_number_stays_in_the_log_no_longer_than_it_is_read(path: Path, store: Store) -> None:
    live(store)
    confirm_all(store, now=NOW + 1)
    with open_store(path) as reader:
        reading = reader._database.connection.execute("SELECT * FROM journal")
        reading.fetchone()
        store.erasing.erase(NUMBER, NOW + 1)
        confirm_all(store, now=NOW + 1)
        assert store.finish_erasing()
        assert found(path, {NUMBER}) == {NUMBER}
        reading.close()
    assert not store.finish_erasing()
    assert found(path, {NUMBER}) == set()


def strangers(store: Store, count: int) -> list[str]:
    """Numbers that were heard of once, in an order that has pages of the index split."""
    numbers = [f"8613{number:09}" for number in random.Random(5).sample(range(10**9), count)]
    for start in range(0, count, 250):
        with store._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO subscribers (mdn, last_heard) VALUES (?, ?)",
                [(number, NOW) for number in numbers[start : start + 250]],
            )
    return numbers


def sweep(store: Store) -> None:
    while store.erasing.sweep(NOW + 1):
        pass
    store.erasing.sweep(NOW + 1)


def erase_every_other(store: Store) -> tuple[set[str], set[str]]:
    """The numbers that were erased of many, and those that were not."""
    numbers = strangers(store, 12_000)
    gone, others = set(numbers[1::2]), set(numbers[::2])
    with store._database.transaction() as connection:
        connection.executemany("UPDATE subscribers SET last_heard = ? WHERE mdn = ?", [(NOW + HOUR, n) for n in others])
    while store.erasing.sweep(NOW + 1):
        pass
    assert not store.finish_erasing()
    return gone, others


def test_copies_that_sqlite_left_in_its_pages_are_found_nowhere(path: Path, store: Store) -> None:
    gone, others = erase_every_other(store)
    assert found(path, gone | others) == others
    with closing(connect(path)) as asking:
        assert asking.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_sqlite_leaves_copies_that_must_be_cleared(path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """`secure_delete` does not reach them. Where this fails, leftovers.py may go."""
    monkeypatch.setattr(scrubbing, "clear_leftovers", lambda *_: None)
    gone, _ = erase_every_other(store)
    assert 0 < len(found(path, gone)) < 100


def test_copies_are_cleared_again_where_the_disk_did_not_take_it(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sync that failed, what is read may be in memory alone."""
    with monkeypatch.context() as patch:
        patch.setattr(scrubbing, "clear_leftovers", lambda *_: None)
        erase_every_other(store)
    offsets = leftovers.find_leftovers(path, leftovers.all_pages(path))
    written: list[int] = []

    def failing(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    def noted(descriptor: int, octets: bytes, offset: int) -> int:
        written.append(offset // PAGE_OCTETS * PAGE_OCTETS)
        return write(descriptor, octets, offset)

    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", noted)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            leftovers.clear_leftovers(path, offsets)
    assert leftovers.find_leftovers(path, leftovers.all_pages(path)) == []
    leftovers.clear_leftovers(path, offsets)
    assert written == offsets * 2 != []


def test_file_that_ends_inside_a_page_for_a_while_is_looked_through_page_by_page(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk ran full, and was mended while we looked. What lies inside a page may look like the beginning of one."""
    erase_every_other(store)
    store.close()
    whole = path.read_bytes()
    pages = list(leftovers.all_pages(path))
    assert pages == list(range(0, len(whole), PAGE_OCTETS))
    monkeypatch.setattr(leftovers, "_has_leftovers", lambda *_: True)
    monkeypatch.setattr(leftovers, "_CHUNK_OCTETS", 4 * PAGE_OCTETS)
    path.write_bytes(whole[: 10 * PAGE_OCTETS + PAGE_OCTETS // 2])
    asked = []

    def mended_meanwhile() -> bool:
        asked.append(None)
        if len(asked) == 4:  # three parts were read
            path.write_bytes(whole)
        return False

    assert leftovers.find_leftovers(path, pages, mended_meanwhile) == pages[:10] + pages[12:]
    assert leftovers.find_leftovers(path, [pages[9], pages[4], *pages[20:29]]) == [pages[9], pages[4], *pages[20:29]]
    path.write_bytes(whole[: 10 * PAGE_OCTETS + PAGE_OCTETS // 2])
    assert leftovers.find_leftovers(path, leftovers.all_pages(path)) == pages[:10]


def test_no_cache_brings_a_copy_back(path: Path, store: Store) -> None:
    """Another role had read pages before they were cleared, and writes them afterwards."""
    with open_store(path) as other:
        numbers = strangers(other, 6_000)
        assert len(other._database.rows("SELECT mdn FROM subscribers WHERE mdn > ''")) == 6_000
        sweep(store)
        assert len(store._database.rows("SELECT number FROM subscribers")) == 6_000
        assert not store.finish_erasing()
        for writer in (other, store):
            for number in numbers[:400]:
                near = f"8613{int(number[4:]) ^ 1:09}"
                register(writer, near, "meter")
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert found(path, set(numbers)) == set()
