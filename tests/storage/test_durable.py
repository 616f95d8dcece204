from __future__ import annotations

import os
from pathlib import Path
from queue import Queue

import pytest

from kmp_smsd.storage.durable import synced_meanwhile


def test_what_is_written_is_on_the_disk_before_all_of_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: Queue[int] = Queue()
    fdatasync = os.fdatasync

    def told(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        fdatasync(descriptor)
        sizes.put(size)

    def until_synced(size: int) -> None:
        while sizes.get(timeout=10) != size:
            pass

    monkeypatch.setattr(os, "fdatasync", told)
    file = tmp_path / "large"
    with open(file, "wb", buffering=0) as written:
        with synced_meanwhile(file):
            written.write(b"half")
            until_synced(4)
            written.write(b" and half")
        until_synced(13)


def test_a_disk_that_fails_meanwhile_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    file = tmp_path / "large"
    file.touch()
    with pytest.raises(OSError, match="Input/output error"), synced_meanwhile(file):
        pass


def test_the_writer_s_own_fault_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.touch()
    with pytest.raises(ZeroDivisionError), synced_meanwhile(file):
        raise ZeroDivisionError
