"""What is left for the next intake, and when a file goes."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store, StoreUnavailable, inbox, open_store
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.inbox_files import directory, read_file
from kmp_smsd.storage.received import Place, Received
from tests.storage.inbox.stock import files, left, opened, requests
from tests.storage.stock import NOW


def test_what_was_not_settled_is_left_in_order_and_nothing_else(path: Path) -> None:
    with opened(path) as one:
        first, second = one.append(requests("K1", "K2")), one.append(requests("K3"))
    assert (first.last.number, second.last) == (2, Place(first.run, 3))
    assert left(path, Place(first.run, 0)) == requests("K1", "K2", "K3")
    assert left(path, Place(first.run, 1)) == requests("K2", "K3")
    assert left(path, Place(first.run, 2)) == requests("K3")
    assert left(path, Place(first.run, 3)) == []


def test_each_run_has_numbers_of_its_own(path: Path) -> None:
    with opened(path) as one:
        received = one.append(requests("K1", "K2", "K3"))
    with opened(path, Place(received.run, 2)) as one:
        (old,) = one.take_left()
        assert (old, one.take_left()) == (Received.of(received.run, 3, requests("K3")), [])
        new = one.append(requests("K4"))
    assert (new.first, new.run != received.run) == (1, True)


@pytest.mark.parametrize("number", [0, 2, 3, 99])
def test_beside_a_database_that_does_not_know_them_all_messages_are_left(path: Path, number: int) -> None:
    """A restored or another one, whatever its number; or none was settled before a crash."""
    with opened(path) as one:
        received = one.append(requests("K1", "K2"))
        one.append(requests("K3"))
    for _ in range(3):  # killed before any of it is settled
        assert left(path, Place("another", number)) == requests("K1", "K2", "K3")
    with opened(path, Place("another", number)) as one:
        one.append(requests("K4"))
    assert left(path, Place(received.run, 2)) == requests("K3", "K4")


def test_file_that_comes_back_is_settled_whatever_was_settled_meanwhile(database: Path) -> None:
    """It was moved away, as the error for a file of another version says, and its numbers were passed meanwhile."""
    with opened(database) as one:
        one.append(requests("K1"))
        one._end_file()
        one.append(requests("K2"))
        one._end_file()
        one.append(requests("K3"))
    away = files(database)[1]
    away.rename(database.with_name("away"))
    with open_store(database) as store:
        assert settle_all(store, database) == ["K1", "K3"]
        with closing(Inbox(database, store.settled)) as one:
            store.settle(requests("K4"), NOW, one.append(requests("K4")).last)
        database.with_name("away").rename(away)
        assert settle_all(store, database) == ["K2"]
        assert settle_all(store, database) == []


def settle_all(store: Store, path: Path) -> list[str]:
    """Key IDs of what is left, which is settled then; its files stay, as after a kill."""
    with closing(Inbox(path, store.settled)) as one:
        left = one.take_left()
    for received in left:
        store.settle(received.messages, NOW, received.last)
    return [one.key_id for received in left for one in received.messages if isinstance(one, SyncRequest)]


def test_messages_of_several_runs_are_left_in_order_and_their_files_go_in_order(path: Path) -> None:
    """Files that somebody put back."""
    runs = []
    for key_id in ("K1", "K2"):
        with opened(path) as one:
            runs.append(one.append(requests(key_id)).last)
        for file in files(path):
            file.rename(path.with_name(f"kept-{len(runs)}"))
    for number in (1, 2):
        path.with_name(f"kept-{number}").rename(directory(path) / f"{number:012}.messages")
    with opened(path, runs[1]) as one:
        assert [received.run for received in one.take_left()] == [runs[0].run]
        one.forget(1)
        assert not files(path)
    with opened(path) as one:
        assert one.take_left() == []


def test_nobody_adds_to_a_file_of_an_earlier_run(path: Path) -> None:
    with opened(path) as one:
        received = one.append(requests("K1"))
    with opened(path, Place(received.run, 0)) as one:
        one.append(requests("K2"))
    assert [len(read_file(file).received) for file in files(path)] == [1, 1]


def test_file_goes_when_all_of_it_is_settled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "FILE_OCTETS", 1)
    with opened(path) as one:
        for key_id in ("K1", "K2", "K3"):
            last = one.append(requests(key_id)).last
        assert len(files(path)) == 3
        one.forget(2)
        assert len(files(path)) == 1
        one.forget(3)
        assert not files(path)
        last = one.append(requests("K4"))
    assert left(path, Place(last.run, 3)) == requests("K4")


def test_file_that_is_still_written_to_goes_as_well(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
        one.forget(0)
        assert files(path)
        one.forget(1)
        assert not files(path)
        last = one.append(requests("K2"))
    assert left(path, Place(last.run, 1)) == requests("K2")


def test_file_goes_though_messages_come_all_the_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number of a subscriber is not to stay until there is a pause."""
    monkeypatch.setattr(inbox, "FILE_S", 0.0)
    with opened(path) as one:
        for given in (2, 4, 6):
            one.append(requests("K1"))
            one.append(requests("not yet"))
            one.forget(given - 1)
            assert len(files(path)) == 1
            one.forget(given)
            assert not files(path)


def test_file_that_cannot_be_removed_keeps_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "FILE_OCTETS", 1)
    real = Path.unlink

    def unlink(one: Path, missing_ok: bool = False) -> None:
        if one.name.startswith("000000000001"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(one))
        real(one, missing_ok=missing_ok)

    with opened(path) as one:
        for key_id in ("K1", "K2", "K3"):
            last = one.append(requests(key_id)).last
    with opened(path, last) as one:  # which is no reason not to begin
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match=r"000000000001-.*: Operation not permitted"):
                    one.forget(0)
                assert [file.name[:12] for file in files(path)] == ["000000000001"]
        one.forget(0)
        assert not files(path)


def test_file_stays_until_all_of_its_lines_are_settled(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
        one.append(requests("K2", "K3"))
    with opened(path) as one:
        for settled in range(3):
            one.forget(settled)
            assert len(files(path)) == 1
        one.forget(3)
        assert not files(path)


def test_file_stays_whatever_order_its_run_is_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that came back under names that were free: numbers of one run fall, and runs take turns."""
    monkeypatch.setattr(inbox, "FILE_OCTETS", 1)
    with opened(path) as one:
        for key_id in ("K1", "K2", "K3"):
            one.append(requests(key_id))
    first, second, third = files(path)
    with opened(path) as one:
        one.append(requests("other"))
    other = files(path)[-1]
    for number, file in enumerate((third, other, first, second), start=11):
        file.rename(directory(path) / f"{number:012}.messages")
    with opened(path) as one:
        assert [m.key_id for r in one.take_left() for m in r.messages if isinstance(m, SyncRequest)] == [
            *("K3", "other", "K1", "K2")
        ]
        for settled in range(5):
            one.forget(settled)
            assert len(files(path)) == 4 - settled


def test_file_that_comes_back_under_the_number_of_another_is_no_concern_of_it(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (old,) = files(path)
    old.rename(path.with_name("aside"))
    with opened(path) as one:
        one.append(())  # a probe
        assert files(path)[0].name[:12] == old.name[:12]
        path.with_name("aside").rename(old)
        one.append(requests("K2"))
        one.forget(1)
        assert files(path) == [old]
    assert left(path) == requests("K1")


def test_file_that_took_the_name_of_another_is_not_removed_for_it(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (old,) = files(path)
    with opened(path) as one:
        old.rename(path.with_name("aside"))
        shutil.copy(path.with_name("aside"), old)
        one.forget(1)
        assert files(path) == [old]


def test_copy_of_a_file_is_not_settled_again(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1", "K2"))
    (file,) = files(path)
    shutil.copy(file, directory(path) / "000000000009.messages")
    file.write_bytes(2 * file.read_bytes())
    assert left(path) == requests("K1", "K2")
