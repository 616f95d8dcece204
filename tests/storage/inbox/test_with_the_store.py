"""The inbox and the store: how far it settled, once each, whatever fails or is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import StoreUnavailable, inbox, open_store, settling
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.received import Message, Place, Settled
from kmp_smsd.storage.write_ahead_log import WriteAheadLog
from tests.storage.fresh import new_database
from tests.storage.inbox.stock import files, left, requests, up_to
from tests.storage.stock import NOW, A, B, counted, sync


def test_store_remembers_how_far_it_settled(database: Path) -> None:
    with open_store(database) as store:
        assert store.settled() == Settled({})
        store.settle([sync(A, "K1"), sync(B, "K2")], NOW, Place("run", 7))
        assert store.settled() == Settled({"run": [(6, 7)]})
        store.settle([sync(A, "K3")], NOW)
        assert store.settled() == Settled({"run": [(6, 7)]})
        store.settle([sync(A, "K4")], NOW, Place("run", 8))
        store.settle([sync(A, "K5")], NOW, Place("run", 10))
        store.settle([sync(A, "K6")], NOW, Place("run", 4))
        assert store.settled() == Settled({"run": [(4, 4), (6, 8), (10, 10)]})


def test_what_is_settled_is_left_out_whoever_tries_it_again(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intake that was killed may have a helper that still settles what the next one finds in the inbox."""
    synced: list[Path] = []
    monkeypatch.setattr(settling, "sync", synced.append)
    with open_store(database) as one, open_store(database) as other:
        assert one.settle(requests("K1", "K2"), NOW, Place("run", 2)) == [Outcome.NOT_REGISTERED] * 2
        assert synced == []
        assert other.settle(requests("K1", "K2"), NOW, Place("run", 2)) == [None, None]
        assert other.settle(requests("K1"), NOW, Place("another run", 1)) == [Outcome.NOT_REGISTERED]
        assert other.settle(requests("K5"), NOW, Place("run", 5)) == [Outcome.NOT_REGISTERED]
        assert synced == [one._database.log_path]  # its commit may be one that was killed before its sync
        left = one.settle(requests("K2", "K3", "K4", "K5", "K6"), NOW, Place("run", 6))
        assert [outcome is not None for outcome in left] == [False, True, True, False, True]
        assert one.settled() == Settled({"run": [(1, 6)], "another run": [(1, 1)]})
        assert counted(one) == {"not_registered": 7}


@settings(max_examples=50)  # each writes to the disk
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), max_size=12))
def test_each_is_settled_once_in_whatever_pieces_they_come(pieces: list[tuple[int, int]]) -> None:
    settled: set[int] = set()
    with TemporaryDirectory() as directory:
        new_database(Path(directory) / "kmp.db")
        with open_store(Path(directory) / "kmp.db") as store:
            for first, count in pieces:
                numbers = range(first, first + count)
                outcomes = store.settle(requests(*(f"K{one}" for one in numbers)), NOW, Place("run", numbers[-1]))
                assert [outcome is None for outcome in outcomes] == [number in settled for number in numbers]
                settled |= set(numbers)
                assert store.settled() == Settled.of([("run", one, one) for one in settled])
            assert sum(counted(store).values()) == len(settled)


def test_fault_of_a_message_that_another_has_settled_meanwhile_is_none(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    with open_store(database) as one, open_store(database) as other:
        monkeypatch.setattr(settling, "decide", lambda *_: 1 / 0)

        def settle_meanwhile(*_: object, **__: object) -> None:
            monkeypatch.undo()
            monkeypatch.setattr(settling, "sync", synced.append)
            assert other.settle(requests("K1"), NOW, Place("run", 1)) == [Outcome.NOT_REGISTERED]

        monkeypatch.setattr(settling.log, "exception", settle_meanwhile)
        assert one.settle(requests("K1"), NOW, Place("run", 1)) == [None]
        assert synced == [database.with_name("kmp.db-wal")]  # the other may have been killed before its sync
        assert counted(one) == {"not_registered": 1}


def test_store_forgets_what_no_file_can_be_of(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "RANGES_MAX", 3)
    with open_store(database) as store:
        for run in "abcde":
            store.settle([sync(A, "K1")], NOW, Place(run, 1))
        store.settle([sync(A, "K1")], NOW, Place("c", 2))
        assert store.settled() == Settled({"c": [(1, 2)], "d": [(1, 1)], "e": [(1, 1)]})


def test_store_remembers_how_far_it_came_when_one_message_is_at_fault(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halved for the second of four; killed in front of the fourth."""
    seen: list[int] = []
    real = settling.decide

    def choke(request: SyncRequest, facts: object) -> object:
        if request.key_id == "K2":
            raise ValueError("a fault of ours")
        if request.key_id == "K4" and seen:
            raise StoreUnavailable("killed")
        return real(request, facts)

    with open_store(database) as store:
        monkeypatch.setattr(settling, "decide", choke)
        real_faulty = store._settling._settle_faulty
        monkeypatch.setattr(
            store._settling, "_settle_faulty", lambda *more, **named: (seen.append(1), real_faulty(*more, **named))[1]
        )
        with pytest.raises(StoreUnavailable):
            store.settle(requests("K1", "K2", "K3", "K4"), NOW, Place("run", 14))
        assert store.settled() == Settled({"run": [(11, 12)]})
        assert counted(store) == {"not_registered": 1, "error": 1}


def test_message_that_cannot_even_be_written_as_a_fault_keeps_nobody_waiting(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settling, "gather", _choking_on(B))
    with open_store(database) as store:
        outcomes = store.settle([sync(A, "K1"), sync(B, "K2"), sync(A, "K3")], NOW, Place("run", 3))
        assert outcomes == [Outcome.NOT_REGISTERED, Outcome.ERROR, Outcome.NOT_REGISTERED]
        assert store.settled() == up_to(Place("run", 3))
        assert counted(store) == {"not_registered": 2, "error": 1}
    assert [record.event for record in caplog.records] == ["message_error", "message_error"]


def test_nothing_is_passed_over_where_no_fault_at_all_can_be_written(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(database) as store:
        with monkeypatch.context() as patch:
            patch.setattr(settling, "gather", _choking_on(A, B, None))
            with pytest.raises(ValueError, match="a fault of ours"):
                store.settle([sync(A, "K1"), sync(B, "K2")], NOW, Place("run", 2))
        assert store.settled() == Settled({})
        store.settle([sync(A, "K1"), sync(B, "K2")], NOW, Place("run", 2))
        assert counted(store) == {"not_registered": 2}


def _choking_on(*mdns: str | None) -> Callable[..., settling.Batch]:
    real = settling.gather

    def choke(store: Database, policy: SyncPolicy, messages: list[Message], now: int) -> settling.Batch:
        if any(one.mdn in mdns for one in messages):
            raise ValueError("a fault of ours")
        return real(store, policy, messages, now)

    return choke


_WITHOUT_MEMORY = """
import sys
from pathlib import Path
from kmp_smsd.storage import StoreUnavailable, open_store
from kmp_smsd.storage.received import Place
from tests.storage.stock import NOW, A, sync
with open_store(Path(sys.argv[1])) as store:
    store._database.connection.execute("PRAGMA hard_heap_limit = 1")  # for this process, and for good
    try:
        store.settle([sync(A, "K1")], NOW, Place("run", 1))
    except StoreUnavailable as error:
        print(error)
"""


def test_lack_of_memory_behind_a_commit_settles_nothing_again(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: WriteAheadLog) -> None:
        raise MemoryError

    with open_store(database) as store:
        with monkeypatch.context() as patch:
            patch.setattr(WriteAheadLog, "move_when_large", fail)
            with pytest.raises(MemoryError):
                store.settle([sync(A, "K1"), sync(B, "K2")], NOW, Place("run", 2))
        assert counted(store) == {"not_registered": 2}
        assert store.settled() == Settled({"run": [(1, 2)]})


def test_lack_of_memory_is_a_fault_of_no_message(database: Path) -> None:
    """https://sqlite.org/pragma.html#pragma_hard_heap_limit"""
    done = subprocess.run([sys.executable, "-c", _WITHOUT_MEMORY, database], capture_output=True, text=True, check=True)
    assert done.stdout == f"{database}: not enough memory\n"
    with open_store(database) as store:
        assert (store.settled(), counted(store)) == (Settled({}), {})


def test_what_is_settled_is_on_the_disk_before_its_message_is_removed(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settling that was killed in its commit may stand in the kernel's memory alone."""
    synced: list[str] = []
    monkeypatch.setattr(settling, "sync", lambda path: synced.append(path.name))
    monkeypatch.setattr(inbox, "sync", lambda path: synced.append(path.name))
    with open_store(database) as store, closing(Inbox(database, store.settled)) as one:
        store.settle(requests("K1"), NOW, one.append(requests("K1")).last)
    synced.clear()
    with open_store(database) as store, closing(Inbox(database, store.settled)) as one:
        assert not one.take_left()
        assert len(files(database)) == 1
        assert store._database.log_path.name in synced


_KILLED = """
import os, signal, sys
from pathlib import Path
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.received import Settled
inbox = Inbox(Path(sys.argv[1]), lambda: Settled({}))
for number in range(3):
    inbox.append([SyncRequest(mdn="8613900000001", key_id=f"K{number}", received_at=1, link="north")])
    print(number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_received_survives_a_kill(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, path], stdout=subprocess.PIPE, check=False)
    assert killed.stdout.split() == [b"0", b"1", b"2"]
    assert [message.key_id for message in left(path) if isinstance(message, SyncRequest)] == ["K0", "K1", "K2"]
