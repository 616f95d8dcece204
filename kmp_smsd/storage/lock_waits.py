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
from mmap import mmap
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

TELL_EVERY_S = 10.0
LONG_S = 3.0  # a transaction takes milliseconds
BEAT_WITHIN_S = 10.0  # a helper shows that it is alive every second

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


class WaitMemory:
    """What a helper shows of its wait in memory that it shares with the process that it helps.

    Each value is written at once (by struct it would not be). All are monotonic seconds, which are the same for both,
    and 0 for never.
    """

    OCTETS = 32
    _SINCE, _ENDED_AT, _HELD_SINCE, _BEAT_AT = range(4)

    def __init__(self, memory: mmap) -> None:
        self._memory = memoryview(memory).cast("d")

    def clear(self) -> None:
        """The helper has ended: it waits for nothing and holds nothing."""
        if self._get(self._SINCE):
            self._set(self._ENDED_AT, time.monotonic())
        for place in (self._SINCE, self._HELD_SINCE, self._BEAT_AT):
            self._set(place, 0.0)

    @contextmanager
    def waiting(self, since: float) -> Iterator[None]:
        """Around a wait that began then."""
        self.beat()
        self._set(self._SINCE, since)
        try:
            yield
        finally:
            now = time.monotonic()
            if now - since >= LONG_S:
                self._set(self._ENDED_AT, now)
            self._set(self._SINCE, 0.0)

    def taken(self) -> None:
        """The helper has the lock."""
        self._set(self._HELD_SINCE, time.monotonic())

    def released(self) -> None:
        """The helper is about to give the lock back."""
        self._set(self._HELD_SINCE, 0.0)

    def beat(self) -> None:
        """The helper is alive: to be called every second."""
        self._set(self._BEAT_AT, time.monotonic())

    @property
    def since(self) -> float | None:
        """Since when a helper that is alive has waited; None where it does not, or has not shown any life lately."""
        if time.monotonic() - self._get(self._BEAT_AT) > BEAT_WITHIN_S:
            return None  # it was stopped while it waited, and may have the lock by now
        return self._get(self._SINCE) or None

    @property
    def ended_at(self) -> float:
        """When its last long wait ended."""
        return self._get(self._ENDED_AT)

    @property
    def holds(self) -> bool:
        """Whether it holds the lock."""
        return bool(self._get(self._HELD_SINCE))

    def _get(self, place: int) -> float:
        return self._memory[place]

    def _set(self, place: int, value: float) -> None:
        self._memory[place] = value


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
    """The process that holds the flock on this file, as the kernel tells; our units hide that (ProcSubset=pid)."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            _, kind, _, _, pid, *where = line.split()  # a waiting process has "->" before its kind
            if kind == "FLOCK" and where[0].endswith(f":{inode}"):
                return f"PID {pid} ({_command(pid)})"
    return "a process that cannot be named from here: 'sudo lslocks' names it"


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"
