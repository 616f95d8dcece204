from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.outcome import NEVER_AGAIN, Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage import StoreBusy, StoreUnavailable, inbox, open_store, settling
from kmp_smsd.storage.inbox import Inbox, directory, read_file
from kmp_smsd.storage.maintenance import migrate
from kmp_smsd.storage.received import DamagedLine, Message, Received
from tests.storage.stock import NOW, A, B, counted, sync


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kmp.db"


def opened(path: Path, settled: int = 0) -> closing[Inbox]:
    return closing(Inbox(path, settled))


def left(path: Path, settled: int = 0) -> list[Message]:
    """What the next intake finds."""
    with opened(path, settled) as one:
        return [message for received in one.left for message in received.messages]


def files(path: Path) -> list[Path]:
    return sorted(directory(path).iterdir())


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
    line = Received(first, messages).line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert Received.parse(line[:-1]) == Received(first, messages)


@given(st.data())
def test_line_that_is_not_whole_is_not_read(data: st.DataObject) -> None:
    line = Received(7, requests("K1", "K2")).line()[:-1]
    octet = data.draw(st.integers(0, len(line) - 1))
    changed = line[:octet] + bytes([line[octet] ^ data.draw(st.integers(1, 255))]) + line[octet + 1 :]
    for wrong in (line[:octet], changed, b"\0" * len(line)):
        with pytest.raises(DamagedLine):
            Received.parse(wrong)


def test_messages_that_are_numbered_above_another() -> None:
    received = Received(11, messages := requests("K1", "K2", "K3"))
    assert received.last == 13
    assert [received.after(number) for number in (0, 10, 11, 13, 99)] == [messages, messages, messages[1:], [], []]


# What is left


def test_what_was_not_settled_is_left_in_order_and_nothing_else(path: Path) -> None:
    with opened(path) as one:
        assert [one.append(requests("K1", "K2")), one.append(requests("K3"))] == [
            Received(1, requests("K1", "K2")),
            Received(3, requests("K3")),
        ]
    assert [left(path, settled) for settled in range(4)] == [
        requests("K1", "K2", "K3"),
        requests("K2", "K3"),
        requests("K3"),
        [],
    ]


@pytest.mark.parametrize("settled", [0, 2, 9])
def test_numbers_go_on_behind_what_is_there_and_what_is_settled(path: Path, settled: int) -> None:
    """Where the inbox was lost, or the database is another one, no number means two messages."""
    with opened(path) as one:
        one.append(requests("K1", "K2", "K3"))
    with opened(path, settled) as one:
        assert one.append(requests("K4")).first == max(settled, 3) + 1


def test_nobody_adds_to_a_file_of_an_earlier_run(path: Path) -> None:
    for key_id in ("K1", "K2"):
        with opened(path) as one:
            one.append(requests(key_id))
    assert [[received.first for received in read_file(file)] for file in files(path)] == [[1], [2]]


def test_file_goes_when_all_of_it_is_settled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "FILE_OCTETS", 1)
    with opened(path) as one:
        for key_id in ("K1", "K2", "K3"):
            one.append(requests(key_id))
        assert len(files(path)) == 3
        assert one.forget(2)
        assert len(files(path)) == 1
        assert not one.forget(3)
        assert files(path) == []
        assert one.append(requests("K4")).first == 4
    assert left(path, 3) == requests("K4")


def test_file_that_is_still_written_to_goes_as_well(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
        assert one.forget(0)
        assert not one.forget(1)
        one.append(requests("K2"))
    assert left(path, 1) == requests("K2")


def test_file_of_an_earlier_run_goes_when_it_is_settled(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    with opened(path) as one:
        assert not one.forget(1)
    assert files(path) == []


# A disk that fails


@pytest.mark.parametrize("torn", [b"", b"0", b"\0" * 4_096, b'12345678 [1,[["sync"'])
def test_torn_last_line_was_never_answered(path: Path, torn: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    with files(path)[0].open("ab") as file:
        file.write(torn)
    assert left(path) == requests("K1")
    assert caplog.records == []


def test_damage_before_a_whole_line_is_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as one:
        for key_id in ("K1", "K2", "K3"):
            one.append(requests(key_id))
    file = files(path)[0]
    file.write_bytes(file.read_bytes().replace(b"K2", b"K9"))
    assert left(path) == requests("K1", "K3")
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}:2 is damaged: messages that were answered are lost;"
        " see what the kernel's log (dmesg) tells of its disk"
    ]


@pytest.mark.parametrize("call", ["write", "fdatasync"])
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
        assert not one.forget(3)
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


@pytest.mark.parametrize("remove", [lambda path: shutil.rmtree(directory(path)), _move, _replace])
def test_nothing_is_answered_that_lies_in_a_file_nobody_will_find(path: Path, remove: Callable[[Path], None]) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
        remove(path)
        with pytest.raises(StoreUnavailable):
            one.append(requests("K2"))
        one.append(requests("K3"))
    assert left(path) == requests("K3")


def test_inbox_that_cannot_be_made_is_unavailable(path: Path) -> None:
    directory(path).write_text("no directory")
    with pytest.raises(StoreUnavailable, match=f"{directory(path)}"):
        Inbox(path, 0)


# Who else


def test_two_intakes_cannot_have_it_open(path: Path) -> None:
    with opened(path), pytest.raises(StoreBusy, match="another intake works on"):
        Inbox(path, 0)
    with opened(path):
        pass


def test_files_are_of_the_group_whatever_the_umask(path: Path) -> None:
    before = os.umask(0o077)
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
    migrate(path)
    return path


def test_store_remembers_how_far_it_settled(database: Path) -> None:
    with open_store(database) as store:
        assert store.settled == 0
        store.settle([sync(A, "K1"), sync(B, "K2")], NOW, 7)
        assert store.settled == 7
        store.settle([sync(A, "K3")], NOW)
        assert store.settled == 7


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
            store.settle(requests("K1", "K2", "K3", "K4"), NOW, 14)
        assert store.settled == 12
        assert counted(store) == {"not_registered": 1, "error": 1}


_KILLED = """
import os, signal, sys
from pathlib import Path
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage.inbox import Inbox
inbox = Inbox(Path(sys.argv[1]), 0)
for number in range(3):
    inbox.append([SyncRequest(mdn="8613900000001", key_id=f"K{number}", received_at=1, link="north")])
    print(number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_received_survives_a_kill(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, path], stdout=subprocess.PIPE, check=False)
    assert killed.stdout.split() == [b"0", b"1", b"2"]
    assert [message.key_id for message in left(path) if isinstance(message, SyncRequest)] == ["K0", "K1", "K2"]
