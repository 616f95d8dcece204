"""How SQLite finds what the hot path, dispatch and `status` ask for: never by walking a large table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.reply import ReplyResult, ReplyState, ReplyTo
from kmp_smsd.domain.request import Unfit
from kmp_smsd.storage import Store, open_store
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.due import REJECTED
from kmp_smsd.storage.outbox import Confirm, Outbid, Postpone, Reject
from kmp_smsd.storage.platforms import PlatformState
from kmp_smsd.storage.requests import Add, Remove, Renumber, Request
from kmp_smsd.storage.subscribers import Registration
from tests.storage.fresh import new_database
from tests.storage.stock import (
    NOW,
    A,
    B,
    C,
    begin_import,
    confirm_all,
    due,
    import_keys,
    open_holds,
    register,
    settle,
    staged,
    sync,
)  # fmt: skip

#: Indexes that hold nothing but what is asked for: few rows however large the table.
SMALL = re.compile(
    r"USING (COVERING )?INDEX "
    r"(open_holds|marked_holds|subscribers_erasing|open_submissions|replies_sending)$"
)


def large_scans(connection: sqlite3.Connection, statement: str) -> list[str]:
    """The steps of the plan of `statement` that walk a table or an index from end to end."""
    if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", statement):
        return []
    aliases = {alias: table for table, alias in re.findall(r"(?:FROM|JOIN) (\w+) ([a-z]{1,2})\b", statement)}
    walked = []
    for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
        # SQLite says SEARCH also of a min() that reads an index from its beginning, perhaps to its end.
        found = re.match(r"SCAN (\w+)|SEARCH (\w+) USING INDEX \w+$", step)
        if found and not SMALL.search(step) and aliases.get(name := found[1] or found[2], name) in (
            "keys", "subscribers", "bindings", "outbox", "journal", "registrations", "holds", "waiting", "requests",
            "replies", "submissions",
        ):  # fmt: skip
            walked.append(f"{step}: {statement}")
    return walked


def intake(store: Store) -> None:
    unfit = Unfit(outcome=Outcome.MALFORMED, mdn=C, received_at=NOW, link="north")
    asked = [sync(A, "k1"), sync(B, "k1"), sync(A, "k2"), sync(C, "k3"), sync(A, "s1"), unfit]
    store.settle(asked, NOW)
    store.holds.approve(open_holds(store)[0]["hold"], "adam")
    store.settle_again(NOW + 1)


def dispatch(store: Store) -> None:
    settle(store, sync(A, "k1"), sync(B, "k2"))
    store.routes.move(NOW)
    store.outbox.next_try("metering", NOW)
    first, second = due(store)
    store.outbox.settle("metering", [Outbid(first, NOW + 5, NOW, "stale"), Postpone(second, NOW + 1, "busy")], NOW)
    (first, second) = due(store, now=NOW + 1)
    store.outbox.settle("metering", [Confirm(first), Reject(second, NOW, "no")], NOW)
    store.renewing.again("metering", NOW, NOW + 2)
    store.sealed_data_keys(["one"])
    store.renewing.retry(NOW + 3)
    store.renewing.retry(NOW + 3, platform="metering", mdn=A)
    store.platforms.report(PlatformState("metering"))
    store.platforms.state("metering")


def status(store: Store) -> None:
    store.platforms.listing()
    store.platforms.unserved(["fleet"])
    store.figures.rejected("metering")
    open_holds(store)
    store.journal.tallies(since_hour=1)
    store.journal.senders(since_hour=1, outcome=Outcome.INVALID_MDN)
    store.journal.listing(mdn=A, before=5, limit=10)
    store.journal.last_hour()
    store.imports.listing(after=1, limit=10)


def endings(store: Store) -> None:
    settle(store, sync(A, "k1"), sync(B, "k2"))
    store.keys.suspend("k1", None)
    store.keys.resume("k1", NOW)
    store.bindings.withdraw(A, "meter", NOW)
    store.bindings.of(A)
    store.keys.revoke("k2", None, NOW, compromised=True)
    store.registrations.remove(B, ["meter"], NOW)
    store.registrations.listing(mdn=A, limit=10)
    store.keys.destroy("k3", NOW)
    store.keys.get("k1")
    store.keys.listing(serial="7", limit=10)


def listings(store: Store) -> None:
    settle(store, sync(A, "k1"), sync(B, "k2"))
    list(store.outbox.unconfirmed())
    store.outbox.listing(mdn=A, everything=False, limit=10)
    store.bindings.active(app_id="meter", after=1, limit=10)
    store.keys.listing(vendor="acme", after="k1", limit=10)
    store.registrations.listing(app_id="meter", after=(A, "meter", 1), limit=10)
    store.waiting.listing(mdn=A, limit=10)
    store.replies.listing(mdn=A, limit=10)


def business(store: Store) -> None:
    settle(store, sync(A, "k1"), sync(B, "k2"), sync(C, "k3"))
    wishes = [Renumber(A, C), Renumber(A, C), Add(A, ("meter",)), Remove(B, ("meter",)), Remove(A, None)]
    store.requests.apply([Request(str(number), b"", wish) for number, wish in enumerate(wishes)], NOW)
    store.requests.expire(NOW + 1)
    store.renumbering.preview(C, B)


def importing(store: Store) -> None:
    import_keys(store, "new1", "new2")


def erasing(store: Store) -> None:
    settle(store, sync(A, "k1"), sync(B, "k2"), sync(C, "k3"))
    store.erasing.show(A)
    store.erasing.erase(A, NOW)
    store.erasing.finish()
    store.erasing.sweep(NOW)
    store.waiting.expire(NOW + 1)
    store.erasing.sweep(NOW + 1)
    store.platforms.to_forget(["metering"])
    (row, *_) = due(store)
    store.outbox.settle("metering", [Outbid(row, NOW + 5, NOW, "holds more")], NOW)


def replying(store: Store) -> None:
    to = ReplyTo(1, 1, A, 0, 1, "10690001")
    settle(store, replace(sync(A, "k1"), reply_to=to), replace(sync(B, "k2"), reply_to=to))
    confirm_all(store)
    first, second = store.replies.exchange([], {"north": 10}, NOW)
    waits, sent = ReplyResult(first.number, ReplyState.WAITING, 0x58), ReplyResult(second.number, ReplyState.SENT)
    store.replies.exchange([waits, sent], {"north": 10}, NOW)
    settle(store, replace(sync(A, "k1"), reply_to=to))
    store.replies.exchange([waits], {"north": 10}, NOW)
    store.replies.recover(NOW + 1)
    store.replies.exchange([], {"north": 10}, NOW + 4_000_000)
    store.replies.sent_in_a_day("north", NOW)
    store.replies.sweep(NOW + 100_000_000)
    store.replies.expire(NOW + 100_000_000)


def retention(store: Store) -> None:
    store.settle([sync(A, "k1"), sync(B, "k2"), sync(B, "k3")], NOW)
    store.bindings.withdraw(A, "meter", NOW)
    settle(store, sync(A, "k1"))
    confirm_all(store)
    unfit = Unfit(outcome=Outcome.MALFORMED, mdn=C, received_at=NOW, link="north")
    store.settle([unfit], NOW + 3_600_000)
    assert store.retention.journal(NOW + 1).deleted
    assert store.retention.tallies(NOW + 3_600_000).deleted
    assert store.retention.ended_bindings(NOW + 1).deleted


@pytest.mark.parametrize(
    "work", [replying, intake, dispatch, status, endings, listings, business, importing, erasing, retention]
)
def test_no_statement_walks_a_large_table(tmp_path: Path, work: Callable[[Store], None]) -> None:
    path = tmp_path / "kmp.db"
    new_database(path)
    statements: list[str] = []
    with open_store(path) as store, closing(sqlite3.connect(path)) as asking:
        store.routes.set({"meter": "metering"})
        import_keys(store, "k1", "k2", "k3", staged("s1", serial="7"), staged("s2", serial="7"))
        register(store, A, "meter")
        register(store, B, "meter")
        store._database.connection.set_trace_callback(statements.append)
        work(store)
        store._database.connection.set_trace_callback(None)
        walked = [step for statement in dict.fromkeys(statements) for step in large_scans(asking, statement)]
    assert len(statements) > 3
    assert walked == []


def test_a_batch_is_looked_up_in_the_order_of_the_indexes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random each look would be a page of its own, where the store is large and the batch is too."""
    numbers = [f"86137{number:08}" for number in range(40)]
    import_keys(store, *[f"of-{mdn}" for mdn in numbers])
    store.registrations.add([Registration(mdn, "meter") for mdn in numbers], NOW)
    asked: list[list[str]] = []
    array = Database.array

    def noting(database: Database, statement: str, parameters: tuple[str, ...]) -> object:
        asked.append(list(json.loads(parameters[0])))
        return array(database, statement, parameters)

    monkeypatch.setattr(Database, "array", noting)
    settle(store, *[sync(mdn, f"of-{mdn}") for mdn in numbers[20:]])
    settle(store, *[sync(mdn, f"of-{mdn}") for mdn in reversed(numbers)])  # half of them repeat what is bound
    keys = [f"of-{mdn}" for mdn in numbers]
    assert asked == [keys[20:], numbers[20:], keys, numbers]


def test_stranger_who_comes_again_is_counted_and_nothing_else_is_written(store: Store) -> None:
    """A flood of forged senders would write a page of the subscribers for each of its messages."""
    connection = store._database.connection
    settle(store, sync(C, "k1"))
    before = connection.total_changes
    settle(store, sync(C, "k1"), sync(C, "k1"))
    assert connection.total_changes - before == 1


def test_walk_of_a_large_table_is_noticed(store: Store) -> None:
    connection = store._database.connection
    assert large_scans(connection, "SELECT count(*) FROM outbox")
    assert large_scans(connection, "SELECT h.key FROM holds h WHERE h.why = 'x'")
    assert large_scans(connection, "SELECT min(platform) FROM outbox INDEXED BY outbox_rejected WHERE " + REJECTED)
    assert large_scans(connection, "SELECT 1 FROM json_each('[]') j JOIN keys k ON k.kcv = j.value")
    assert not large_scans(connection, "SELECT 1 FROM json_each('[]') j CROSS JOIN keys k ON k.key_id = j.value")


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.platforms.names(),
        lambda store: store.platforms.unserved(["metering"]),
        lambda store: store.figures.due("fleet"),
        lambda store: store.figures.rejected("fleet"),
        lambda store: store.figures.rejected("metering", at_most=1),
        lambda store: store.outbox.next_try("fleet", NOW),
        lambda store: store.renewing.again("fleet", NOW, NOW),
        lambda store: store.renewing.retry(NOW, platform="fleet"),
        lambda store: store.renewing.retry(NOW, platform="metering", mdn=A),
    ],
)
def test_what_a_platform_rejected_costs_nobody_else_anything(store: Store, ask: Callable[[Store], object]) -> None:
    register(store, A, "meter")
    with store._database.transaction() as connection:
        connection.executemany(
            """INSERT INTO outbox (subscriber, app, platform, wanted_version, rejected_version, wanted_at, try_at)
               VALUES (?, 'meter', 'metering', 7, 7, 1, 1)""",
            [(number,) for number in range(1_000, 6_000)],
        )
    hundreds: list[int] = []
    store._database.connection.set_progress_handler(lambda: hundreds.append(1), 100)
    ask(store)
    store._database.connection.set_progress_handler(None, 0)
    assert len(hundreds) < 50  # each of 5,000 rows would take five steps or more


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: [row for page in store.outbox.unconfirmed() for row in page],
        lambda store: store.outbox.listing(mdn=A, everything=False, limit=10),
        lambda store: store.bindings.active(app_id="meter", limit=10),
        lambda store: store.keys.listing(vendor="acme", limit=10),
        lambda store: store.registrations.listing(app_id="meter", limit=10),
        lambda store: store.replies.listing(mdn=A, limit=10),
    ],
)
def test_listing_what_few_rows_meet_reads_few(store: Store, ask: Callable[[Store], list[object]]) -> None:
    store.routes.set({"meter": "metering", "tracker": "metering"})
    numbers = [f"86137{number:08}" for number in range(3_000)]
    store.registrations.add([Registration(mdn, "tracker") for mdn in numbers], NOW)
    import_keys(store, *[f"of-{mdn}" for mdn in numbers], vendor="other")
    to = ReplyTo(1, 1, A, 0, 1, "10690001")
    settle(store, *[replace(sync(mdn, f"of-{mdn}"), reply_to=to) for mdn in numbers])
    confirm_all(store)
    register(store, A, "meter")
    import_keys(store, "k1")
    settle(store, replace(sync(A, "k1"), reply_to=to))
    hundreds: list[int] = []
    store._database.connection.set_progress_handler(lambda: hundreds.append(1), 100)
    assert len(ask(store)) == 1
    store._database.connection.set_progress_handler(None, 0)
    assert len(hundreds) < 50  # each of 3,000 rows would take two steps or more


def test_discarding_staged_keys_searches_no_other_table(store: Store) -> None:
    """SQLite looks for references to each deleted row, through the whole of every table without a full index."""
    numbers = range(1_500)
    import_keys(store, *[f"k{number}" for number in numbers])
    store.registrations.add([Registration(f"86139{number:08}", "meter") for number in numbers], NOW)
    settle(store, *[sync(f"86139{number:08}", f"k{number}") for number in numbers])
    import_number = begin_import(store)
    store.imports.stage(import_number, [staged(f"s{number}") for number in range(300)])
    thousands: list[int] = []
    store._database.connection.set_progress_handler(lambda: thousands.append(1), 1_000)
    store.imports.discard(import_number)
    store._database.connection.set_progress_handler(None, 0)
    assert len(thousands) < 100
    assert store._database.connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
