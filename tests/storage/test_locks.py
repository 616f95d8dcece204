from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from kmp_smsd.storage import StoreUnavailable, lock_waits
from kmp_smsd.storage.locks import ImportLock, SchemaLock, WriteLock, share
from tests.storage.lock_holder import held_by_another


def is_waiting(lock: int) -> bool:
    """Whether somebody waits for the flock on `lock`'s file, as the kernel tells."""
    inode = str(os.fstat(lock).st_ino)
    return any(" -> " in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_file_is_shared_itself_and_not_what_a_link_names(tmp_path: Path) -> None:
    file, link = tmp_path / "kmp.db", tmp_path / "link"
    file.touch(mode=0o600)
    link.symlink_to(file)
    share(link)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with open(file, "r+b") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)  # as SQLite locks
        share(file)
        held_by_us = (f":{file.stat().st_ino} " in Path("/proc/locks").read_text() for _ in range(lock_waits.LOOKS))
        assert any(held_by_us)
    assert stat.S_IMODE(file.stat().st_mode) == 0o660


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


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    database = tmp_path / "kmp.db"
    with held_by_another(database) as holder:
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
    lock, other = WriteLock(tmp_path / "kmp.db"), WriteLock(tmp_path / "kmp.db")
    flock = fcntl.flock

    def broken(descriptor: int, operation: int) -> None:
        if descriptor == lock._write and operation & fcntl.LOCK_EX:
            raise OSError(37, "No locks available")
        flock(descriptor, operation)

    with closing(lock), closing(other):
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", broken)
            with pytest.raises(StoreUnavailable, match="No locks available"), lock:
                pass
        with other:
            pass


def test_who_holds_the_lock_is_told_once_while_several_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tell = lock_waits.tell
    monkeypatch.setattr(lock_waits, "tell", lambda _: None)  # the thread that tells of itself is silent
    database = tmp_path / "kmp.db"
    with held_by_another(database) as holder:

        def enter() -> None:
            with closing(WriteLock(database)) as lock, lock:
                pass

        waiters = [threading.Thread(target=enter) for _ in range(2)]
        for waiter in waiters:
            waiter.start()
        deadline = time.monotonic() + 10
        while len(lock_waits._waits) < 2:
            assert time.monotonic() < deadline
            os.sched_yield()
        tell(min(lock_waits._waits.values()) + 1)  # a second is nothing yet, however long it really was
        assert caplog.messages == []
        tell(time.monotonic() + 5)
        command = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        assert caplog.messages == [f"the write lock is held by PID {holder.pid} ({command})"]
        holder.stdin.close()
        for waiter in waiters:
            waiter.join(10)
    tell(time.monotonic() + 5)
    assert len(caplog.messages) == 1


def test_wait_for_another_process_is_known_with_its_holder_and_when_it_was_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_waits, "LONG_S", 0.0)
    database = tmp_path / "kmp.db"
    with closing(WriteLock(database)) as lock, held_by_another(database) as holder:
        assert (lock.wait.is_for_others, lock.wait.holder, lock.wait.over_s) == (False, None, float("inf"))
        with waiting_for(lock):
            assert lock.wait.is_for_others
            assert (lock.wait.holder or "").startswith(f"PID {holder.pid} (")
            holder.kill()
        assert (lock.wait.is_for_others, lock.wait.holder) == (False, None)
        assert lock.wait.over_s < 60


def test_holder_that_the_sandbox_hides_is_named_by_lslocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: Path, **_: str) -> str:
        raise FileNotFoundError(path)  # as /proc/locks is under ProcSubset=pid

    monkeypatch.setattr(Path, "read_text", hidden)
    assert lock_waits.holder(1) == "a process that cannot be named from here ('sudo lslocks' names it)"


def test_holder_over_whom_the_kernel_passed_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text, looks = Path.read_text, []

    def read(path: Path, **options: str) -> str:
        told = read_text(path, **options)
        if path == Path("/proc/locks"):
            looks.append(path)
            if len(looks) == 1:
                return "".join(line for line in told.splitlines(keepends=True) if f":{inode} " not in line)
        return told

    with closing(WriteLock(tmp_path / "kmp.db")) as lock, lock:
        inode = os.fstat(lock._write).st_ino
        monkeypatch.setattr(Path, "read_text", read)
        assert lock_waits.holder(inode).startswith(f"PID {os.getpid()} (")
    looks.clear()
    assert lock_waits.holder(inode) == lock_waits.UNNAMED
    assert len(looks) == lock_waits.LOOKS


def test_wait_for_a_thread_of_our_own_is_none_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hang with the lock, and then a restart does help."""
    monkeypatch.setattr(lock_waits, "LONG_S", 0.0)
    database = tmp_path / "kmp.db"
    with ExitStack() as opened:
        lock, mine = (opened.enter_context(closing(WriteLock(database))) for _ in range(2))
        waiter = opened.enter_context(ExitStack())
        with mine:
            waiter.enter_context(waiting_for(lock))
            assert (lock.wait.is_for_others, lock.wait.holder) == (False, None)


@contextmanager
def waiting_for(lock: WriteLock) -> Iterator[None]:
    """A thread that waits for `lock`, has it in the end and gives it back."""

    def enter() -> None:
        with lock:
            pass

    waiter = threading.Thread(target=enter)
    waiter.start()
    deadline = time.monotonic() + 10
    while not is_waiting(lock._write):
        assert time.monotonic() < deadline
        os.sched_yield()
    yield
    waiter.join(10)
    assert not waiter.is_alive()


def test_wait_for_the_lock_is_told_of_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock_waits, "TELL_EVERY_S", 0.01)
    monkeypatch.setattr(lock_waits, "LONG_S", 0.0)
    monkeypatch.setattr(lock_waits, "_teller", None)
    database = tmp_path / "kmp.db"

    def enter() -> None:
        with closing(WriteLock(database)) as lock, lock:
            pass

    with closing(WriteLock(database)) as mine:
        waiter = threading.Thread(target=enter)
        with mine:
            waiter.start()
            deadline = time.monotonic() + 10
            while not any(f"PID {os.getpid()} " in message for message in caplog.messages):
                assert time.monotonic() < deadline
                os.sched_yield()
        waiter.join(10)


@pytest.mark.parametrize("kind", [WriteLock, ImportLock, lambda path: SchemaLock(path, exclusive=True)])
def test_lock_that_cannot_be_opened_is_the_store_s_fault_and_leaks_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ImportLock]
) -> None:
    real_open = os.open

    def no_write_file(path: Path, *rest: int) -> int:
        if path.suffix == ".write":
            raise OSError(24, "Too many open files")
        return real_open(path, *rest)

    def no_lock(_descriptor: int, _operation: int) -> None:
        raise OSError(37, "No locks available")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_write_file)
        patch.setattr(fcntl, "flock", no_lock)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"Too many open files|No locks available"):
                kind(tmp_path / "kmp.db")
    assert len(os.listdir("/proc/self/fd")) == before
    kind(tmp_path / "kmp.db").close()


@pytest.mark.parametrize("kind", [ImportLock, lambda path: SchemaLock(path, exclusive=True)])
def test_refused_lock_leaks_no_descriptor(tmp_path: Path, kind: type[ImportLock]) -> None:
    from kmp_smsd.storage import StoreBusy

    with closing(kind(tmp_path / "kmp.db")):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(StoreBusy):
                kind(tmp_path / "kmp.db")
        assert len(os.listdir("/proc/self/fd")) == before
