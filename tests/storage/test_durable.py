from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kmp_smsd.storage.durable import synced_meanwhile


def test_what_is_written_is_on_the_disk_before_all_of_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    fdatasync = os.fdatasync

    def told(descriptor: int) -> None:
        fdatasync(descriptor)
        synced.set()

    monkeypatch.setattr(os, "fdatasync", told)
    file = tmp_path / "large"
    with open(file, "wb") as written, synced_meanwhile(file):
        written.write(b"half")
        assert synced.wait(10)
        synced.clear()
    assert synced.is_set()  # what came after the last time, too


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
