from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

import pytest

from kmp_smsd.vault import replacing
from kmp_smsd.vault.key_files import create_master_key
from kmp_smsd.vault.master_key import MasterKey
from kmp_smsd.vault.replacing import kept, next_key, take_place


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """The private half of a master key, beside the public one, and beside those that are to come."""
    private, public = tmp_path / "master.key", tmp_path / "master.pub"
    create_master_key(private, public)
    next_key(private, public)
    return private


def test_half_takes_its_place_on_the_disk_too(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[object] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("replaced"), replace(*names)))
    monkeypatch.setattr(replacing, "sync_directory", steps.append)
    take_place(private, "before")
    assert steps == [private.parent, "replaced", private.parent]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_half_that_was_replaced_is_kept_as_it_was(private: Path, mode: int) -> None:
    private.chmod(mode)
    before, coming = private.read_bytes(), private.with_name("master.key.next").read_bytes()
    take_place(private, "before")
    take_place(private, "another")  # which it has done already
    assert (private.read_bytes(), kept(private, "before").read_bytes()) == (coming, before)
    assert kept(private, "before").stat().st_mode & 0o777 == mode
    assert not kept(private, "another").exists()


def killed(private: Path, steps: int) -> bool:
    """Whether a process that puts the half in its place was killed: at a step after so many that the kernel took."""
    child = os.fork()
    if child == 0:
        left = iter(range(steps))
        sys.addaudithook(lambda *_: next(left, None) is None and signal.raise_signal(signal.SIGKILL))
        try:
            take_place(private, "before")
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_half_that_was_replaced_is_kept_whole_whenever_that_is_killed(private: Path) -> None:
    before, present, coming = private.read_bytes(), private.with_name("present"), private.with_name("master.key.next")
    os.link(coming, private.with_name("coming"))
    for steps in count():
        present.write_bytes(before)
        present.chmod(0o600)
        os.replace(present, private)
        coming.unlink(missing_ok=True)
        os.link(private.with_name("coming"), coming)
        kept(private, "before").unlink(missing_ok=True)
        if not killed(private, steps):
            break
        take_place(private, "before")
        assert kept(private, "before").read_bytes() == before
    assert steps > 3


def test_half_takes_the_place_of_one_that_was_lost(private: Path) -> None:
    coming = MasterKey.load(private.with_name("master.key.next")).fingerprint
    private.unlink()
    take_place(private, "before")
    assert MasterKey.load(private).fingerprint == coming
