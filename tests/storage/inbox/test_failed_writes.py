"""Nothing is answered that is not on the disk, and a write that failed leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kmp_smsd.storage import StoreUnavailable, inbox
from kmp_smsd.storage.inbox_files import directory
from tests.storage.inbox.stock import files, left, opened, requests


def test_a_sync_makes_no_file_longer_but_seldom(path: Path) -> None:
    with opened(path) as one:
        lengths = set()
        for _ in range(2_000):
            one.append(requests("K1"))
            lengths |= {file.stat().st_size for file in files(path)}
    assert len(lengths) < 25


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


def test_line_that_would_not_be_read_back_is_not_answered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as one:
        monkeypatch.setattr(inbox, "LINE_OCTETS_MAX", 300)
        with pytest.raises(StoreUnavailable, match=r"a line of \d+ octets would not be read back"):
            one.append(requests(*["K1"] * 10))
        one.append(requests("K2"))
    assert left(path) == requests("K2")


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
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, octets, at: real(descriptor, octets[:5], at))
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
