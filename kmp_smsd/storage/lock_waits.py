"""What the log says while the write lock is waited for: by whom it is held.

Somebody may have stopped a command in the middle of a transaction (^Z), and then no message is answered with success
and nothing is delivered. The lock itself is waited for in the kernel, so another thread tells.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

TELL_EVERY_S = 10.0
LONG_S = 3.0  # a transaction takes milliseconds

_waits: dict[int, float] = {}  # the lock file's descriptor -> since when, in monotonic seconds
_teller: threading.Thread | None = None


@contextmanager
def told_while_waiting(descriptor: int) -> Iterator[None]:
    """Around the wait for the flock on this file. Who waits for long is told of about every 10 seconds."""
    global _teller
    _waits[descriptor] = time.monotonic()
    if _teller is None:  # one for the whole process; a second one, begun at the same moment, would do no harm
        _teller = threading.Thread(target=_tell_for_ever, name="lock waits", daemon=True)
        _teller.start()
    try:
        yield
    finally:
        del _waits[descriptor]


def _tell_for_ever() -> None:
    while True:
        time.sleep(TELL_EVERY_S)
        tell(time.monotonic())


def tell(now: float) -> None:
    """Say by whom each lock is held that was long waited for by `now`, once per lock however many wait."""
    inodes = set()
    for descriptor, since in list(_waits.items()):
        if now - since >= LONG_S:
            with suppress(OSError):  # closed in this moment
                inodes.add(os.fstat(descriptor).st_ino)
    for inode in inodes:
        who = holder(inode)
        log.warning("the write lock is held by %s", who, extra={"event": "write_lock_held", "holder": who})


def holder(inode: int) -> str:
    """The process that holds the flock on this file, as the kernel tells."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            _, kind, _, _, pid, *where = line.split()  # a waiting process has "->" before its kind
            if kind == "FLOCK" and where[0].endswith(f":{inode}"):
                return f"PID {pid} ({_command(pid)})"
    return "a process that cannot be named"


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"
