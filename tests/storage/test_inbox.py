from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmp_smsd.domain.outcome import NEVER_AGAIN, Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage import Store, StoreBusy, StoreUnavailable, StoreUnusable, inbox, inbox_files, open_store, settling
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.inbox_files import directory, read_file
from kmp_smsd.storage.received import DamagedLine, ForeignLine, Message, Place, Received, Settled
from kmp_smsd.storage.write_ahead_log import WriteAheadLog
from tests.storage.fresh import new_database
from tests.storage.stock import NOW, A, B, counted, sync

NOWHERE = Place("", 0)
SECTOR_OCTETS = 512


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kmp.db"


def opened(path: Path, settled: Place = NOWHERE) -> closing[Inbox]:
    """Beside a database that settled all of that run up to that place."""
    return closing(Inbox(path, lambda: up_to(settled)))


def up_to(settled: Place) -> Settled:
    return Settled.of([(settled.run, 1, settled.number)])


def left(path: Path, settled: Place = NOWHERE) -> list[Message]:
    """What the next intake finds."""
    with opened(path, settled) as one:
        return [message for received in one.take_left() for message in received.messages]


def files(path: Path) -> list[Path]:
    return sorted(directory(path).iterdir())


def write_behind_the_lines(file: Path, octets: bytes) -> None:
    with file.open("r+b") as changed:
        changed.seek(len(changed.read().rstrip(b"\0")))
        changed.write(octets)


def requests(*key_ids: str) -> list[SyncRequest]:
    return [sync(A, key_id) for key_id in key_ids]


# What lies in it


_text = st.text(st.characters(codec="utf-8"), max_size=20)
_received_at = st.integers(0, 2**53)
_reply_to = st.builds(
    ReplyTo,
    *(st.integers(0, 7), st.integers(0, 18), _text) * 2,
    st.none() | st.integers(0, 65_535),
    st.none() | st.integers(0, 65_535),
)
_messages = st.builds(
    SyncRequest,
    mdn=_text,
    key_id=_text,
    app_id=st.none() | _text,
    proof=st.none() | st.builds(Proof, st.integers(1, 2**63 - 1), _text),
    received_at=_received_at,
    link=_text,
    reply_to=st.none() | _reply_to,
    approved_hold=st.none(),  # what comes again never lies there
    waited=st.just(False),
    submission=st.none(),
) | st.builds(
    Unfit,
    outcome=st.sampled_from([Outcome.RECEIPT, *NEVER_AGAIN]),
    mdn=st.none() | _text,
    sender=_text,
    received_at=_received_at,
    link=_text,
    why=_text,
)


@given(st.integers(1, 2**62), st.lists(_messages, max_size=5))
def test_line_is_read_as_it_was_written(first: int, messages: list[Message]) -> None:
    line = Received.of("run", first, messages).line
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    read = Received.parse(line[:-1])
    assert read == Received.of("run", first, messages)
    assert read.messages == messages


def test_line_that_is_printed_names_no_subscriber() -> None:
    received = Received.of("run", 7, requests("K1", "K2"))
    assert repr(received) == "Received(run='run', first=7, count=2)"
    assert received.messages[0].mdn.encode() in received.line


@given(st.data())
def test_line_that_is_not_whole_is_not_read(data: st.DataObject) -> None:
    line = Received.of("run", 7, requests("K1", "K2")).line[:-1]
    octet = data.draw(st.integers(0, len(line) - 1))
    changed = line[:octet] + bytes([line[octet] ^ data.draw(st.integers(1, 255))]) + line[octet + 1 :]
    for wrong in (line[:octet], changed, b"\0" * len(line)):
        with pytest.raises(DamagedLine):
            Received.parse(wrong)


def test_messages_that_are_not_settled() -> None:
    received = Received.of("run", 11, messages := requests("K1", "K2", "K3"))
    assert received.last == Place("run", 13)
    rests = [received.rest(up_to(Place("run", number))).messages for number in (0, 10, 11, 13, 99)]
    assert rests == [messages, messages, messages[1:], [], []]
    assert received.rest(up_to(Place("another", 99))) == received


def test_messages_between_settled_ones_are_not_settled() -> None:
    settled = Settled.of([("run", 20, 29), ("run", 1, 10), ("another", 11, 19), ("run", 30, 30)])
    assert [settled.first_left("run", number) for number in (1, 10, 11, 19, 20, 30, 31)] == [11, 11, 11, 19, 31, 31, 31]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9))), st.integers(1, 50))
def test_settled_ranges_may_overlap(lengths: list[tuple[int, int]], number: int) -> None:
    settled = {n for first, more in lengths for n in range(first, first + more + 1)}
    left = next(n for n in range(number, 100) if n not in settled)
    assert Settled.of([("run", first, first + more) for first, more in lengths]).first_left("run", number) == left


# What is left


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


# Whoever only looks


def waiting(path: Path, settled: Place = NOWHERE) -> list[Message]:
    return inbox_files.waiting_in(path, lambda: up_to(settled))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_waits_is_read_beside_intake_and_only_from_files(path: Path, make: Callable[[Path], None]) -> None:
    assert waiting(path) == []
    with opened(path) as one:
        make(directory(path) / "000000000001.messages")
        last = one.append(requests("K1", "K2")).last
        assert waiting(path) == requests("K1", "K2")
        assert waiting(path, Place(last.run, 1)) == requests("K2")


def test_what_is_settled_meanwhile_does_not_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as one:
        last = one.append(requests("K1")).last
        real = inbox_files.read_file
        known = [Settled({})]

        def settled_behind_it(file: Path) -> inbox_files.Content:
            content = real(file)
            known[0] = up_to(last)
            file.unlink()
            return content

        monkeypatch.setattr(inbox_files, "read_file", settled_behind_it)
        assert inbox_files.waiting_in(path, lambda: known[0]) == []


def test_file_in_which_a_number_cannot_be_looked_for_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # without a name, as from reading

    assert inbox_files.files_with(path, A) == []
    with opened(path) as one:
        one.append(requests("K1"))
        (file,) = files(path)
        monkeypatch.setattr(Path, "read_bytes", broken)
        with pytest.raises(StoreUnavailable, match=rf"{file}: Input/output error"):
            inbox_files.files_with(path, A)


def test_file_that_goes_meanwhile_is_settled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
        real = inbox_files.read_file
        monkeypatch.setattr(inbox_files, "read_file", lambda file: (file.unlink(), real(file))[1])
        assert waiting(path) == []


def test_inbox_that_nobody_may_list_is_not_taken_for_empty(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory(path)))

    with opened(path):
        monkeypatch.setattr(os, "scandir", refused)
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            waiting(path)


# A disk that fails


@pytest.mark.parametrize("torn", [b"", b"0", b'12345678 [1,[["sync"'])
def test_torn_last_line_was_never_answered(path: Path, torn: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    file = files(path)[0]
    write_behind_the_lines(file, torn)
    assert left(path) == requests("K1")
    said = [f"{file} ends in a torn line: nothing of it was answered, if the disk is well"] if torn else []
    assert [record.getMessage() for record in caplog.records] == said
    assert len(files(path)) == 1


@given(st.data())
def test_power_cut_takes_nothing_that_was_synced_and_rings_no_alarm(data: st.DataObject) -> None:
    """Some sectors of what was not synced are on the disk, and the file is as long as before or as now."""
    batches = data.draw(st.lists(st.lists(_messages, min_size=1, max_size=20), min_size=1, max_size=8))
    with TemporaryDirectory() as name:
        path = Path(name) / "kmp.db"
        with closing(Inbox(path, lambda: Settled.of([]))) as one:
            before = b""
            for batch in batches:
                before = files(path)[0].read_bytes() if files(path) else b""
                one.append(batch)
        (file,) = files(path)
        after = file.read_bytes()
        synced = read_file(file).received
        old = before.ljust(len(after), b"\0")
        starts = range(0, len(after), SECTOR_OCTETS)
        is_there = data.draw(st.integers(0, 2 ** len(starts) - 1))
        sectors = [
            (after if is_there >> n & 1 else old)[start : start + SECTOR_OCTETS] for n, start in enumerate(starts)
        ]
        length = data.draw(st.sampled_from([len(before), len(after)]))
        file.write_bytes(b"".join(sectors)[:length])
        content = read_file(file)
    assert content.damaged == []
    assert content.received in (synced, synced[:-1])
    assert not (content.torn and content.received == synced)


def test_a_sync_makes_no_file_longer_but_seldom(path: Path) -> None:
    with opened(path) as one:
        lengths = set()
        for _ in range(2_000):
            one.append(requests("K1"))
            lengths |= {file.stat().st_size for file in files(path)}
    assert len(lengths) < 25


def test_huge_file_without_a_line_is_not_read_whole(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    os.truncate(files(path)[0], 300 << 30)
    assert left(path) == requests("K1")


@pytest.mark.parametrize("body", [b"[]", b'[2,"run",1,[]]', b'[1,"run",1,[["sync"]]]', b'[1,"run",1,[["odd"]]]', b"no"])
def test_file_of_another_version_is_refused_by_name(path: Path, body: bytes) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (file,) = files(path)
    write_behind_the_lines(file, b"%08x %s\n" % (zlib.crc32(body), body))
    with pytest.raises(StoreUnusable, match=f"{file}:2 was written by another version of kmp-smsd"):
        left(path)
    with pytest.raises(ForeignLine):
        Received.parse(b"%08x %s" % (zlib.crc32(body), body))


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["1\u00b2x.messages", "12.messages", "000000000001.copy.messages", "notes"])
def test_what_else_lies_there_is_left_alone_and_told_of(
    path: Path, name: str, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    foreign = directory(path) / name
    make(foreign)
    assert left(path) == requests("K1")
    assert foreign.is_symlink() or foreign.exists()
    assert [record.getMessage() for record in caplog.records] == [f"{foreign} is no file of ours, and not read"]


def test_fifo_of_one_of_its_names_is_left_alone_and_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fifo = directory(path) / "000000000009.messages"
    with opened(path) as one:
        os.mkfifo(fifo)
        one.append(requests("K1"))
    assert left(path) == requests("K1")
    assert [record.getMessage() for record in caplog.records] == [f"{fifo} is no file of ours, and not read"]


def test_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        read_file(Path("/proc/self/mem"))  # its beginning is mapped to nothing
    assert caught.value.filename == "/proc/self/mem"


def test_nobody_but_the_group_sees_into_a_directory_that_was_there(path: Path) -> None:
    directory(path).mkdir()
    directory(path).chmod(0o2777)
    with opened(path):
        assert stat.S_IMODE(directory(path).stat().st_mode) == 0o2770


def test_directory_that_cannot_be_listed_is_no_empty_inbox(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as one:
        one.append(requests("K1"))

    def refused(_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory(path)))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        with pytest.raises(StoreUnavailable, match=f"{directory(path)}: Permission denied"):
            left(path)
    assert left(path) == requests("K1")


@pytest.mark.parametrize(("key_id", "number"), [("K2", 2), ("K3", 3)])
def test_damage_is_told_of_and_the_file_kept_for_people(
    path: Path, caplog: pytest.LogCaptureFixture, key_id: str, number: int
) -> None:
    with opened(path) as one:
        for each in ("K1", "K2", "K3"):
            one.append(requests(each))
    file = files(path)[0]
    file.write_bytes(damaged := file.read_bytes().replace(key_id.encode(), b"K9"))
    assert left(path) == [one for one in requests("K1", "K2", "K3") if one.key_id != key_id]
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}:{number} damaged: messages that were answered are lost; see what the kernel's log (dmesg) tells of its"
        f" disk; the file stays as {file.name}.damaged"
    ]
    kept = file.with_name(file.name + ".damaged")
    assert kept.read_bytes() == damaged
    file.unlink()
    with opened(path) as one:
        one.append(requests("K4"))
    assert [one.name[:12] for one in files(path)] == [
        "000000000001",
        "000000000002",
    ]  # the next damage has its own name


def test_file_added_to_another_is_read_whole(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (file,) = files(path)
    file.rename(kept := path.with_name("kept"))
    with opened(path) as one:
        one.append(requests("K2"))
    (file,) = files(path)
    with file.open("ab") as added:
        added.write(kept.read_bytes())
    assert left(path) == requests("K2", "K1")
    assert [record.getMessage().partition(" damaged")[0] for record in caplog.records] == [f"{file}:2"]  # to be safe


@pytest.mark.parametrize("number", range(1, 6))
def test_where_the_end_of_a_line_is_zeros_the_next_one_is_read_and_the_damage_told(path: Path, number: int) -> None:
    with opened(path) as one:
        for each in range(1, 7):
            one.append(requests(f"K{each}"))
    (file,) = files(path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1][:-10] + bytes(10)
    file.write_bytes(b"".join(lines))
    content = read_file(file)
    assert [message for received in content.received for message in received.messages] == requests(
        *(f"K{each}" for each in range(1, 7) if each != number)
    )
    assert (content.damaged, content.torn) == ([number], False)


@pytest.mark.parametrize(("lines", "of", "messages"), [(0, 100, 1), (1, 100, 1), (50, 100, 1), (20, 30, 100)])
def test_more_zeros_than_we_leave_are_told_of_and_the_file_kept(
    path: Path, caplog: pytest.LogCaptureFixture, lines: int, of: int, messages: int
) -> None:
    with opened(path) as one:
        for _ in range(of):
            one.append(requests(*["K1"] * messages))
    (file,) = files(path)
    assert not read_file(file).hollow
    octets = file.read_bytes()
    kept = b"".join(octets.splitlines(keepends=True)[:lines])
    file.write_bytes(damaged := kept.ljust(len(octets), b"\0"))
    content = read_file(file)
    assert (len(content.received), content.torn, content.hollow) == (lines, False, True)
    assert left(path) == requests(*["K1"] * messages) * lines
    assert [record.getMessage() for record in caplog.records] == [
        f"{file} ends in zeros that do not belong there: nothing in their place was answered, if the disk is well; the"
        f" file stays as {file.name}.damaged"
    ]
    assert file.with_name(file.name + ".damaged").read_bytes() == damaged


@pytest.mark.parametrize("torn", [b'\0\0[1,[["sync"', b"\0\0whole or not\n"])
def test_torn_last_line_with_zeros_is_kept_for_people(path: Path, torn: bytes) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    write_behind_the_lines(files(path)[0], torn)
    assert left(path) == requests("K1")
    assert [file.suffix for file in files(path)] == [".messages", ".damaged"]


@pytest.mark.parametrize("spoilt", ["the end of the one before", "the one before", "the first octets"])
def test_last_line_with_zeros_in_it_may_have_been_answered_and_is_kept(
    path: Path, caplog: pytest.LogCaptureFixture, spoilt: str
) -> None:
    with opened(path) as one:
        for each in ("K1", "K2", "K3"):
            one.append(requests(each))
    (file,) = files(path)
    first, second, third = file.read_bytes().rstrip(b"\0").splitlines(keepends=True)
    third = third.replace(b"K3", b"K9")
    if spoilt == "the first octets":
        third = b"\0\0" + third[2:]
    else:
        second = second[:-1] + b"\0" if spoilt == "the end of the one before" else bytes(len(second))
    file.write_bytes(first + second + third)
    content = read_file(file)
    assert (content.damaged, content.torn, content.hollow) == ([], True, True)
    with opened(path):
        pass
    assert file.with_name(file.name + ".damaged").exists()
    assert [record.event for record in caplog.records] == ["inbox_torn"]


def test_zeros_before_a_line_that_is_whole_are_damage_whatever_stands_at_the_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as one:
        for each in ("K1", "K2", "K3", "K4"):
            one.append(requests(each))
    (file,) = files(path)
    first, second, third, fourth = file.read_bytes().rstrip(b"\0").splitlines(keepends=True)
    file.write_bytes(first[:-1] + bytes(1 + len(second)) + third[:-1] + b"\0" + fourth[: len(fourth) // 2])
    content = read_file(file)
    assert (content.damaged, content.torn, content.hollow) == ([1], False, False)
    assert left(path) == requests("K1", "K3")
    assert [record.event for record in caplog.records] == ["inbox_damaged"]


def test_file_with_too_many_zeros_that_gets_no_second_name_stays_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (file,) = files(path)
    file.write_bytes(damaged := file.read_bytes() + bytes(inbox_files.ROOM_OCTETS))

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    with opened(path) as one:
        assert len(one.take_left()) == 1
        one.forget(1)
        assert file.read_bytes() == damaged


@pytest.mark.parametrize("which", ["file", "directory"])
def test_message_is_on_the_disk_with_the_name_of_its_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    synced = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    with opened(path) as one:
        monkeypatch.setattr(os, "fsync", watched)
        one.append(requests("K1"))
        wanted = files(path)[0] if which == "file" else directory(path)
        assert wanted.stat().st_ino in synced
        one._end_file()

        def broken(descriptor: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}") == (which == "directory"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            one.append(requests("K2"))


def test_file_whose_only_line_was_not_written_is_told_of_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (file,) = files(path)
    line, room = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(line[:5] + bytes(len(line) - 5) + room)
    content = read_file(file)
    assert (content.received, content.damaged, content.torn, content.hollow) == ([], [], True, True)
    assert left(path) == []
    assert [record.event for record in caplog.records] == ["inbox_torn"]


def test_files_of_one_number_have_an_order_all_the_same(path: Path) -> None:
    names = [f"000000000001-{run:016x}.messages" for run in range(9, 0, -1)]
    directory(path).mkdir()
    for name in names:
        (directory(path) / name).touch()
    assert [one.name for one in inbox_files.listed(directory(path))[0]] == sorted(names)


def test_number_that_nobody_would_read_is_given_to_no_file(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (file,) = files(path)
    file.rename(file.with_name("9" * 18 + file.name[12:]))
    with opened(path) as one:
        with pytest.raises(StoreUnavailable, match="no number is left behind that of the last file"):
            one.append(requests("K2"))
        assert one.take_left()[0].messages == requests("K1")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_line_of_which_only_the_end_is_a_zero_is_whole(path: Path, number: int) -> None:
    with opened(path) as one:
        for each in ("K1", "K2", "K3"):
            one.append(requests(each))
    (file,) = files(path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1][:-1] + b"\0"
    file.write_bytes(b"".join(lines))
    content = read_file(file)
    assert [received.messages for received in content.received] == [requests(each) for each in ("K1", "K2", "K3")]
    assert (content.damaged, content.torn) == ([number] if number < 3 else [], False)


@pytest.mark.parametrize("hinder", ["no links", "another file"])
def test_damaged_file_that_gets_no_second_name_stays_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hinder: str
) -> None:
    with opened(path) as one:
        for each in ("K1", "K2"):
            one.append(requests(each))
    (file,) = files(path)
    file.write_bytes(damaged := file.read_bytes().replace(b"K1", b"K9"))
    if hinder == "another file":
        file.with_name(file.name + ".damaged").write_bytes(b"of an earlier restore")
    else:

        def refused(*_: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refused)
    with opened(path) as one:
        assert [message for received in one.take_left() for message in received.messages] == requests("K2")
        one.append(requests("K3"))
        one.forget(2)
    assert caplog.records[0].getMessage().endswith(f"; the file stays as {file.name}")
    assert file.read_bytes() == damaged


def test_line_that_would_not_be_read_back_is_not_answered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as one:
        monkeypatch.setattr(inbox, "LINE_OCTETS_MAX", 300)
        with pytest.raises(StoreUnavailable, match=r"a line of \d+ octets would not be read back"):
            one.append(requests(*["K1"] * 10))
        one.append(requests("K2"))
    assert left(path) == requests("K2")


def test_number_of_a_file_may_be_any(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    (file,) = files(path)
    file.rename(file.with_name("999999999999" + file.name[12:]))
    for key_id in ("K2", "K3"):
        with opened(path) as one:
            one.append(requests(key_id))
    assert [one.name.partition("-")[0] for one in files(path)] == ["1000000000000", "1000000000001", "999999999999"]
    assert left(path) == requests("K1", "K2", "K3")


def test_message_is_answered_where_it_has_room_and_its_zeros_have_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, whole = os.pwrite, []

    def on_a_full_disk(descriptor: int, octets: bytes, at: int) -> int:
        if not octets.strip(b"\0"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole.append(octets.index(b"\n") + 5)
        return pwrite(descriptor, octets[: whole[-1]], at)

    with opened(path) as one:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", on_a_full_disk)
            for each in ("K1", "K2", "K3"):
                one.append(requests(each))
        one.append(requests("K4"))
        assert len(files(path)) == 1
    assert left(path) == requests("K1", "K2", "K3", "K4")
    assert len(whole) == 3


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_file_that_failed_is_never_written_to_again(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(path) as one:
        one.append(requests("K1"))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(StoreUnavailable, match="Input/output error"):
                one.append(requests("K2"))
        before = files(path)[0].read_bytes()
        received = one.append(requests("K3"))
        assert received.first == 3, "who finds the second after a restart must not take it for this one"
        assert files(path)[0].read_bytes() == before
        assert len(files(path)) == 2
        one.forget(2)
        assert not files(path)
    assert files(path) == []


def test_probes_leave_nothing_behind_after_one_that_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "FILE_S", 0.0)
    with opened(path) as one:
        one.append(requests("K1"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "")))
            with pytest.raises(StoreUnavailable):
                one.append(requests("K2"))
        for _ in range(3):
            one.append(())
            one.forget(1)
            assert not files(path)


def test_probes_leave_nothing_behind_a_message_that_is_not_settled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "FILE_S", 0.0)
    with opened(path) as one:
        one.append(requests("K1"))
        for _ in range(3):
            one.append(())
            one.forget(0)
            assert len(files(path)) == 1
    assert left(path) == requests("K1")


def test_tries_on_a_full_disk_leave_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(path) as one:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            for _ in range(20):
                with pytest.raises(StoreUnavailable, match="No space left on device: make room on its volume"):
                    one.append(requests("K1"))
        assert files(path) == []


def test_write_that_the_kernel_takes_in_parts_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, octets: real(descriptor, octets[:5]))
    with opened(path) as one:
        one.append(requests("K1", "K2"))
    assert left(path) == requests("K1", "K2")


def _move(path: Path) -> None:
    directory(path).rename(path.with_name("elsewhere"))


def _replace(path: Path) -> None:
    (file,) = files(path)
    file.unlink()
    file.touch()


def _link(path: Path) -> None:
    (file,) = files(path)
    file.rename(elsewhere := path.with_name("elsewhere"))
    file.symlink_to(elsewhere)


@pytest.mark.parametrize("remove", [lambda path: shutil.rmtree(directory(path)), _move, _replace, _link])
def test_nothing_is_answered_that_lies_in_a_file_nobody_will_find(path: Path, remove: Callable[[Path], None]) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
        remove(path)
        with pytest.raises(StoreUnavailable):
            one.append(requests("K2"))
        one.append(requests("K3"))
    assert left(path) == requests("K3")


def test_nothing_is_answered_in_a_directory_that_may_not_survive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as one:
        shutil.rmtree(directory(path))
        with monkeypatch.context() as patch:
            patch.setattr(inbox, "sync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "")))
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    one.append(requests("K1"))
        assert not directory(path).exists()
        one.append(requests("K2"))
    assert left(path) == requests("K2")


def test_inbox_that_cannot_be_made_is_unavailable(path: Path) -> None:
    directory(path).write_text("no directory")
    with pytest.raises(StoreUnavailable, match=f"{directory(path)} is in the place of the inbox: move it elsewhere"):
        Inbox(path, lambda: Settled({}))


# Who else


def test_two_intakes_cannot_have_it_open(path: Path) -> None:
    with opened(path), pytest.raises(StoreBusy, match="another intake works on"):
        Inbox(path, lambda: pytest.fail("the other may still settle"))
    with opened(path):
        pass


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_files_are_of_the_group_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with opened(path) as one:
            one.append(requests("K1"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory(path).stat().st_mode) == 0o770
    assert stat.S_IMODE(files(path)[0].stat().st_mode) == 0o660


# With the store


@pytest.fixture
def database(path: Path) -> Path:
    new_database(path)
    return path


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
