"""What waits, as who only looks is told beside intake."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmp_smsd.storage import StoreUnavailable, inbox_files
from kmp_smsd.storage.inbox_files import directory
from kmp_smsd.storage.received import Message, Place, Settled
from tests.storage.inbox.stock import NOWHERE, files, opened, requests, up_to
from tests.storage.stock import A


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
