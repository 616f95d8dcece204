from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.locks import ImportLock, SchemaLock, WriteLock


def is_waiting(lock: int) -> bool:
    """Whether somebody waits for the flock on `lock`'s file, as the kernel tells."""
    inode = str(os.fstat(lock).st_ino)
    return any(" -> " in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_nobody_starves_however_often_another_takes_the_lock_again(tmp_path: Path) -> None:
    """Who waits when the lock is released has it before its last holder has it again."""
    greedy = WriteLock(tmp_path / "kmp.db")
    order: list[str] = []

    def wait() -> None:
        with closing(WriteLock(tmp_path / "kmp.db")) as lock, lock:
            order.append("patient")

    with closing(greedy):
        for _ in range(20):
            patient = threading.Thread(target=wait)
            with greedy:
                order.append("greedy")
                patient.start()
                deadline = time.monotonic() + 10
                while not is_waiting(greedy._write):
                    assert time.monotonic() < deadline
                    os.sched_yield()
            with greedy:
                pass
            assert order == ["greedy", "patient"]
            order.clear()
            patient.join(10)


_HOLDER = """
import sys
from pathlib import Path
from kmp_smsd.storage.locks import WriteLock
with WriteLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    database = tmp_path / "kmp.db"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        entered = threading.Event()

        def enter() -> None:
            with closing(WriteLock(database)) as lock, lock:
                entered.set()

        waiter = threading.Thread(target=enter)
        waiter.start()
        assert not entered.is_set()
        holder.kill()
        assert entered.wait(10)
        waiter.join(10)


def test_lock_that_fails_is_the_store_s_fault_and_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    lock, other = WriteLock(tmp_path / "kmp.db"), WriteLock(tmp_path / "kmp.db")
    flock = fcntl.flock

    def broken(descriptor: int, operation: int) -> None:
        if descriptor == lock._write and operation == fcntl.LOCK_EX:
            raise OSError(37, "No locks available")
        flock(descriptor, operation)

    with closing(lock), closing(other):
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", broken)
            with pytest.raises(StoreUnavailable, match="No locks available"), lock:
                pass
        with other:
            pass


@pytest.mark.parametrize("kind", [ImportLock, lambda path: SchemaLock(path, exclusive=True)])
def test_refused_lock_leaks_no_descriptor(tmp_path: Path, kind: type[ImportLock]) -> None:
    from kmp_smsd.storage import StoreBusy

    with closing(kind(tmp_path / "kmp.db")):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(StoreBusy):
                kind(tmp_path / "kmp.db")
        assert len(os.listdir("/proc/self/fd")) == before
