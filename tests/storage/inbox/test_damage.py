"""Damage and zeros in a file: what is read all the same, what is told, and what is kept for people."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kmp_smsd.storage import inbox_files
from kmp_smsd.storage.inbox_files import read_file
from tests.storage.inbox.stock import files, left, opened, requests, write_behind_the_lines


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


def test_huge_file_without_a_line_is_not_read_whole(path: Path) -> None:
    with opened(path) as one:
        one.append(requests("K1"))
    os.truncate(files(path)[0], 300 << 30)
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
