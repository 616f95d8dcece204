"""A disk that takes no more, and says so late: what was committed before and afterwards is on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import StoreUnavailable, checkpoint, open_store, write_ahead_log
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.log_limits import LogLimits
from kmp_smsd.storage.migrating import migrate
from kmp_smsd.storage.received import Settled
from tests.mounting import require_root
from tests.storage.log_by_hand import FRAME_OCTETS, CommittedMeanwhile, add, registered
from tests.storage.stock import A, sync

COUNT = """
import sys
from pathlib import Path
from kmp_smsd.storage import open_store
with open_store(Path(sys.argv[1])) as store:
    assert store._database.rows("PRAGMA integrity_check") == [("ok",)]
    print(store._database.rows("SELECT count(*) FROM registrations")[0][0])
"""
LEFT = """
import sys
from pathlib import Path
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.received import Settled
inbox = Inbox(Path(sys.argv[1]), lambda: Settled({}))
print(sum(int(message.key_id) for received in inbox.take_left() for message in received.messages))
"""


@pytest.fixture
def thin_disk(tmp_path: Path) -> Iterator[Disk]:
    require_root()
    disk = Disk(tmp_path)
    try:
        disk.mount()
        yield disk
    finally:
        disk.unmount()


class Disk:
    """A real ext4 on a volume that promises more than there is: its image lies on a small tmpfs."""

    def __init__(self, directory: Path) -> None:
        self.outer, self.inner, self.copy = directory / "outer", directory / "disk", directory / "copy"
        self.image = self.outer / "image"

    def mount(self) -> None:
        for mount_point in (self.outer, self.inner, self.copy):
            mount_point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", self.outer], check=True)
        self.image.write_bytes(bytes(48 << 20))
        options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-E", options, self.image], check=True)
        self.image.write_bytes(self.image.read_bytes())  # its own tables and journal have their room, without holes
        subprocess.run(["mount", "-o", "loop", self.image, self.inner], check=True)
        device = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", self.inner], capture_output=True, text=True, check=True
        ).stdout.strip()
        # So each write fails or succeeds as a whole: the driver calls a short one a success.
        Path(f"/sys/block/{Path(device).name}/queue/max_sectors_kb").write_text("4")

    def unmount(self) -> None:
        for mount_point in (self.copy, self.inner, self.outer):
            subprocess.run(["umount", "--lazy", mount_point], check=False, stderr=subprocess.DEVNULL)

    def fail(self) -> None:
        """From now on, what the file system has not written before cannot be written."""
        os.sync()  # what was removed is free now
        subprocess.run(["fstrim", self.inner], check=True)
        with open(self.outer / "ballast", "wb", buffering=0) as ballast:
            for octets in (1 << 20, 4096):
                try:
                    while ballast.write(b"\xff" * octets):
                        pass
                except OSError:
                    continue

    def mend(self) -> None:
        (self.outer / "ballast").unlink()

    def after_a_power_cut(self, count: str) -> int:
        """What the program `count` would print."""
        cut = self.copy.with_name("cut.image")
        shutil.copy(self.image, cut)
        subprocess.run(["mount", "-o", "loop", cut, self.copy], check=True)
        try:  # in a process of its own, which leaves no file of the copy open
            counted = subprocess.run(
                [sys.executable, "-c", count, self.copy / "kmp.db"], capture_output=True, check=True
            )
            return int(counted.stdout)
        finally:
            subprocess.run(["umount", self.copy], check=True)
            cut.unlink()


@pytest.mark.parametrize("large_pages", [10_000, 40], ids=["the log grows", "the database grows"])
def test_everything_confirmed_is_on_a_disk_that_failed_for_a_while(
    thin_disk: Disk, monkeypatch: pytest.MonkeyPatch, large_pages: int
) -> None:
    limits = LogLimits(shared=1 << 40, large=large_pages * FRAME_OCTETS, finish=1 << 40, most=1 << 40)
    monkeypatch.setattr(write_ahead_log, "log_limits", lambda _: limits)
    monkeypatch.setattr(write_ahead_log, "LOOK_EVERY_S", 0.0)
    path = thin_disk.inner / "kmp.db"
    migrate(path)
    with open_store(path) as store:
        confirmed = numbers = 0
        for _ in range(2):
            for failing in (False, True, False):
                if failing:
                    thin_disk.fail()
                for _ in range(15):
                    numbers += 60
                    try:
                        add(store, numbers, 60)
                    except StoreUnavailable:
                        assert failing
                    else:
                        confirmed += 60
                if failing:
                    thin_disk.mend()
            assert registered(store) == confirmed
            assert thin_disk.after_a_power_cut(COUNT) == confirmed
    assert thin_disk.after_a_power_cut(COUNT) == confirmed


@pytest.mark.parametrize("late", [False, True], ids=["before the look", "after it"])
def test_what_lengthened_the_database_beside_a_reader_is_on_a_disk_that_told_later_that_it_failed(
    thin_disk: Disk, late: bool
) -> None:
    path = thin_disk.inner / "kmp.db"
    migrate(path)
    with open_store(path) as store, open_store(path) as other, closing(connect(path)) as reader:
        connection = store._database.connection

        def grow() -> None:
            add(other, 0, 1_000)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM registrations").fetchall()
            add(other, 1_000, 20)
            thin_disk.fail()

        if not late:
            grow()
        mover: Any = CommittedMeanwhile(connection, grow) if late else connection
        with suppress(OSError, sqlite3.Error):  # before it is synced, there is nothing that tells
            checkpoint.move_log(mover, path, checkpoint.PASSIVE)
        os.sync()
        reader.execute("ROLLBACK")
        with pytest.raises((OSError, sqlite3.Error)):
            checkpoint.move_log(connection, path, checkpoint.PASSIVE)
        thin_disk.mend()
        with suppress(StoreUnavailable), store._database.alone():  # the kernel tells each descriptor of the fault once
            store._database.empty_log()
        with store._database.alone():
            assert store._database.empty_log()
        add(store, 1_020, 20)  # over the log that was moved
        assert thin_disk.after_a_power_cut(COUNT) == 1_040


@pytest.mark.parametrize("forgets", [False, True], ids=["its files stay", "its files go"])
def test_everything_answered_is_in_an_inbox_whose_disk_failed_for_a_while(thin_disk: Disk, forgets: bool) -> None:
    """Each batch of messages is one bit of the sum; one that was left with the SMSC may be there nevertheless."""
    answered = bit = refused = given = 0
    with closing(Inbox(thin_disk.inner / "kmp.db", lambda: Settled({}))) as inbox:
        for failing in (False, True, False, True, False):
            if failing:
                thin_disk.fail()
            for _ in range(20):
                bit += 1
                try:
                    received = inbox.append([sync(A, str(1 << bit))] + [sync(A, "0" * 60)] * 400)
                except StoreUnavailable:
                    assert failing
                    refused += 1
                else:
                    answered |= 1 << bit
                    given += len(received.messages)
            if failing:
                thin_disk.mend()
            left = thin_disk.after_a_power_cut(LEFT)
            assert answered & ~left == 0
            if forgets:
                inbox.forget(given)
                answered = 0
    assert refused
