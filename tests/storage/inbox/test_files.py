"""The files and their directory: names, numbers, modes, who has them open, and what else lies there."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kmp_smsd.storage import StoreBusy, StoreUnavailable, StoreUnusable, inbox_files
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.inbox_files import directory, read_file
from kmp_smsd.storage.received import ForeignLine, Received, Settled
from tests.storage.inbox.stock import files, left, opened, requests, write_behind_the_lines


@pytest.mark.parametrize(
    "body",
    [
        *(b"[]", b"no", b'[3,"run",1,[]]', b'[2,"run","1",[]]', b'[2,"run",1,[["sync"]]]', b'[2,"run",1,[["odd"]]]'),
        *(b'[2,"run",1,[["unfit","odd",null,"",1,"sim",""]]]', b'[1,"run",1,[["sync"]]]', b'[1,"run",1,[["odd"]]]'),
        b'[1,"run",1,[["sync","8613900000001",null,"K1",null,null,null,"sim","1"]]]',
        *(b'[1,"run",1,[[]]]', b'[1,"run",1,[["sync","86139",[1],"K1",null,null,null,"sim",1]]]'),
        *(b'[1,"run",1,[],0]', b'[2,"run",1,[],0]'),
        b'[2,"run",1,[["unfit","malformed",null,"",1,"sim","","new"]]]',
        b'[2,"run",1,[["sync","86139","K1",1,"sim",null,null,null,null,false,null,"new"]]]',
        b'[2,"run",1,[["sync","86139","K1",1,"sim",null,[1,"tag","new"],null,null,false,null]]]',
        b'[2,"run",1,[["sync","86139","K1",1,"sim",null,null,[1,1,"86139",0,1,"1069",null,null,"new"],null,false,null]]]',
    ],
)
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


def test_inbox_that_cannot_be_made_is_unavailable(path: Path) -> None:
    directory(path).write_text("no directory")
    with pytest.raises(StoreUnavailable, match=f"{directory(path)} is in the place of the inbox: move it elsewhere"):
        Inbox(path, lambda: Settled({}))


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
