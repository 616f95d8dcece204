"""Who waits for the write lock, and what the log says meanwhile: by whom it is held.

Somebody may have stopped a command in the middle of a transaction (^Z), and then no message is answered with success
and nothing is delivered. The lock itself is waited for in the kernel, so another thread tells. Who waits for another
process does not hang: no restart of ours would have it give the lock back.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from kmp_smsd.storage.wait_memory import LONG_S, WaitMemory

log = logging.getLogger(__name__)

TELL_EVERY_S = 10.0
LOOKS = 5
UNNAMED = "a process that cannot be named from here ('sudo lslocks' names it)"

_waits: dict[int, float] = {}  # the lock file's descriptor -> since when, in monotonic seconds
_held: set[int] = set()  # inodes of the lock files that a thread of this process holds
_helpers: list[HelperWait] = []
_teller: threading.Thread | None = None


class Waits(Protocol):
    """How the write lock is waited for. Any thread may ask."""

    @property
    def is_for_others(self) -> bool:
        """Whether it is waited for now, and neither this process nor a helper of it has it."""

    @property
    def over_s(self) -> float:
        """How long ago the last long wait ended, at which who waited can be said to have begun."""


class LockWait:
    """How one connection waits for its write lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino
        self._ended_at = float("-inf")  # monotonic seconds; the last long one
        self._memory: WaitMemory | None = None

    def show_in(self, memory: WaitMemory) -> None:
        """From now on let the process that we help see it; it is the one who tells."""
        self._memory = memory

    def of_helper(self, memory: WaitMemory) -> HelperWait:
        """How a helper of this process waits for the same lock."""
        return HelperWait(memory, self._inode)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Around the wait; see `told_while_waiting`."""
        since = time.monotonic()
        with told_while_waiting(self._descriptor) if self._memory is None else self._memory.waiting(since):
            yield
            now = time.monotonic()
            if now - since >= LONG_S:
                self._ended_at = now  # before the wait is forgotten, or the thread would seem stuck in between

    def taken(self) -> None:
        """The lock is ours."""
        _held.add(self._inode)
        if self._memory is not None:
            self._memory.taken()

    def released(self) -> None:
        """The lock is about to be given back."""
        if self._memory is not None:
            self._memory.released()
        _held.discard(self._inode)

    @property
    def is_for_others(self) -> bool:
        return self._descriptor in _waits and not _is_ours(self._inode)

    @property
    def over_s(self) -> float:
        return time.monotonic() - self._ended_at

    @property
    def holder(self) -> str | None:
        """The other process for which any connection of ours has long waited; None where none does."""
        if _is_ours(self._inode) or self._inode not in _long_waited(time.monotonic()):
            return None
        return holder(self._inode)


class HelperWait:
    """How a helper of this process, a process of its own, waits for the write lock."""

    def __init__(self, memory: WaitMemory, inode: int) -> None:
        self.memory, self.inode = memory, inode
        _helpers.append(self)
        _begin_to_tell()

    def close(self) -> None:
        _helpers.remove(self)

    @property
    def is_for_others(self) -> bool:
        return self.memory.since is not None and not _is_ours(self.inode)

    @property
    def over_s(self) -> float:
        return time.monotonic() - (self.memory.ended_at or float("-inf"))


def _is_ours(inode: int) -> bool:
    """Whether this process or a helper of it holds this lock."""
    return inode in _held or any(helper.inode == inode and helper.memory.holds for helper in list(_helpers))


@contextmanager
def told_while_waiting(descriptor: int) -> Iterator[None]:
    """Around the wait for the flock on this file. Who waits for long is told of about every 10 seconds."""
    _waits[descriptor] = time.monotonic()
    _begin_to_tell()
    try:
        yield
    finally:
        del _waits[descriptor]


def _begin_to_tell() -> None:
    global _teller
    if _teller is None:  # one for the whole process; a second one, begun at the same moment, would do no harm
        _teller = threading.Thread(target=_tell_for_ever, name="lock waits", daemon=True)
        _teller.start()


def _tell_for_ever() -> None:
    while True:
        time.sleep(TELL_EVERY_S)
        tell(time.monotonic())


def tell(now: float) -> None:
    """Say by whom each lock is held that was long waited for by `now`, once per lock however many wait."""
    for inode in _long_waited(now):
        who = holder(inode)
        log.warning("the write lock is held by %s", who, extra={"event": "write_lock_held", "holder": who})


def _long_waited(now: float) -> set[int]:
    """The lock files that somebody here has long waited for by `now`."""
    inodes = set()
    for descriptor, since in list(_waits.items()):
        if now - since >= LONG_S:
            with suppress(OSError):  # closed in this moment
                inodes.add(os.fstat(descriptor).st_ino)
    for helper in list(_helpers):
        since_of_helper = helper.memory.since
        if since_of_helper is not None and now - since_of_helper >= LONG_S:
            inodes.add(helper.inode)
    return inodes


def holder(inode: int) -> str:
    """The process that holds the flock on this file, as the kernel tells; our units hide that (ProcSubset=pid).

    The kernel tells of 4,096 octets of locks at a time, and passes over one between them where others are given back
    meanwhile (tried: over one in a thousand). So who is not found is looked for again.
    """
    with suppress(OSError):
        for _ in range(LOOKS):
            for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
                _, kind, _, _, pid, *where = line.split()  # a waiting process has "->" before its kind
                if kind == "FLOCK" and where[0].endswith(f":{inode}"):
                    return named(pid)
    return UNNAMED


def named(pid: str) -> str:
    """A process as people know it."""
    try:
        command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        command = "unknown"
    return f"PID {pid} ({command})"
