"""Deliveries that come together are answered as if they had come one by one."""

from __future__ import annotations

import runpy
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.receiver_store import leave_copy

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "kmp-receive"))
Store, Wish, Content, receipt, PAGE_OCTETS = (
    SCRIPT[name] for name in ("Store", "Wish", "Content", "receipt", "PAGE_OCTETS")
)
CONTENTS = [None, *(Content(key_id, "aes", key * 16, "ABCDEF") for key_id in "AB" for key in (b"1", b"2"))]
_numbers = count()


def wish(mdn: str, app_id: str, version: int, content: Any) -> Any:
    return Wish(next(_numbers), mdn, app_id, version, content, b"")


wishes = st.builds(
    wish, st.sampled_from(["1", "2"]), st.sampled_from(["x", "y"]), st.integers(1, 4), st.sampled_from(CONTENTS)
)


class Model:
    """What is held after each wish, in order, and what each is told once its group is over."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], tuple[int, Any]] = {}

    def apply(self, group: list[Any]) -> list[dict[str, Any]]:
        refused = []
        for one in group:
            version, content = self.held.get((one.mdn, one.app_id), (0, None))
            refused.append(version == one.version and content != one.content)
            if version < one.version:
                self.held[one.mdn, one.app_id] = one.version, one.content
        return [self.answer(one, is_refused) for one, is_refused in zip(group, refused, strict=True)]

    def answer(self, one: Any, is_refused: bool) -> dict[str, Any]:
        if is_refused:
            reason = "this version is held with other content"
            return {"id": one.id, "status": "rejected", "reason": reason}
        version, content = self.held[one.mdn, one.app_id]
        if version != one.version:
            return {"id": one.id, "status": "stale", "version": version}
        if content is None:
            return {"id": one.id, "status": "removed"}
        proof = receipt(content.key, one.mdn, one.app_id, content.key_id, version)
        return {"id": one.id, "status": "stored", "receipt": proof}


@given(st.lists(st.lists(wishes, min_size=1, max_size=12), min_size=1, max_size=4))
@settings(max_examples=60)
def test_groups_are_applied_and_answered_in_order(tmp_path_factory: Any, groups: list[list[Any]]) -> None:
    path = tmp_path_factory.mktemp("groups") / "keys.db"
    store, model = Store(str(path)), Model()
    store.create()
    for group in groups:
        assert store.apply(group) == model.apply(group)
    store.close()
    assert held(path) == model.held


def test_group_of_more_places_than_a_statement_takes_is_answered_whole(tmp_path: Path) -> None:
    group = [wish(str(number), "x", 1 + number % 3, CONTENTS[number % len(CONTENTS)]) for number in range(1_000)]
    store, model = Store(str(tmp_path / "keys.db")), Model()
    store.create()
    assert store.apply(group) == model.apply(group)
    again = [one._replace(version=2) for one in group]
    assert store.apply(again) == model.apply(again)
    store.close()


def test_what_was_held_already_is_committed_again_before_it_is_answered(tmp_path: Path) -> None:
    """Its commit may have been killed before its last sync: then its journal comes back with a power cut."""
    path = tmp_path / "keys.db"
    store, group = Store(str(path)), [wish("1", "x", 2, CONTENTS[1]), wish("2", "x", 2, None)]
    store.create()
    first = store.apply(group)
    before = commits(path)
    assert store.apply(group) == first
    assert [one["status"] for one in store.apply([wish("1", "x", 1, None)])] == ["stale"]
    assert commits(path) == before + 2
    assert store.open().execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: a commit is three syncs
    assert store.open().execute("PRAGMA journal_mode").fetchone() == ("truncate",)
    store.close()


def test_copies_of_erased_keys_are_cleared_and_do_not_come_back(tmp_path: Path) -> None:
    path, copy = tmp_path / "keys.db", b"copy of a key..."
    store, other = Store(str(path)), Store(str(path))
    store.create()
    store.apply([wish("1", "x", 1, CONTENTS[1])])
    store.close()
    leave_copy(path, copy)
    store.scrub()
    assert copy in path.read_bytes()  # nothing was erased since
    store.apply([wish("1", "x", 2, None)])
    other.apply([wish("2", "x", 1, CONTENTS[2])])  # it has the page in its cache, with the copy
    assert copy in path.read_bytes()
    store.scrub()
    assert copy not in path.read_bytes()
    other.apply([wish("3", "x", 1, CONTENTS[3])])
    assert copy not in path.read_bytes()
    assert held(path) == {("1", "x"): (2, None), ("2", "x"): (1, CONTENTS[2]), ("3", "x"): (1, CONTENTS[3])}
    store.close()
    other.close()


def test_nothing_is_cleared_beside_a_write_ahead_log(tmp_path: Path) -> None:
    """A program that sets one whenever it opens the store may come in between."""
    path, copy = tmp_path / "keys.db", b"copy of a key..."

    class Raced(Store):
        def _connect(self) -> sqlite3.Connection:
            connection = super()._connect()
            if self._connection is not None:  # this one is for the scrub
                with closing(sqlite3.connect(path)) as other:
                    assert other.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
            return connection

    store, raced = Store(str(path)), Raced(str(path))
    store.create()
    store.apply([wish("1", "x", 1, CONTENTS[1])])
    store.apply([wish("1", "x", 2, None)])
    store.close()
    leave_copy(path, copy)
    raced.scrub()
    raced.close()
    assert copy in path.read_bytes()
    store.scrub()
    store.close()
    assert copy not in path.read_bytes()


def test_page_that_is_damaged_keeps_the_rows_that_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    store = Store(str(path))
    store.create()
    store.apply([wish("1", "x", 1, CONTENTS[1]), wish("2", "x", 1, CONTENTS[1])])
    store.apply([wish("1", "x", 2, None)])  # there is something to clear
    store.close()
    standing = held(path)
    with open(path, "r+b") as file:
        file.seek(PAGE_OCTETS + 5)  # of its table's page: where the rows begin
        file.write(PAGE_OCTETS.to_bytes(2, "big"))
    assert held(path) == standing
    store.scrub()
    store.close()
    assert held(path) == standing


def commits(path: Path) -> int:
    """How many transactions wrote: the file change counter of SQLite's header."""
    return int.from_bytes(path.read_bytes()[24:28], "big")


def held(path: Path) -> dict[tuple[str, str], tuple[int, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            (mdn, app_id): (version, None if content[0] is None else Content(*content))
            for mdn, app_id, version, *content in connection.execute(
                "SELECT mdn, app_id, version, key_id, alg, key, kcv FROM held"
            )
        }
