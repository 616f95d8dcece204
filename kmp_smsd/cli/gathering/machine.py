"""What the kernel says: room, clock, and what this process may do."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import resource
from collections.abc import Iterable
from pathlib import Path

from kmp_smsd.diagnosis.room import RoomFacts
from kmp_smsd.diagnosis.sandbox import SandboxFacts
from kmp_smsd.storage.checkpoint import log_of
from kmp_smsd.storage.volume import free_octets

_TIMEX_OCTETS = 256  # struct timex has 208; `modes` 0 only asks
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_SECCOMP_FILTER = 2  # proc_pid_status(5)


def room_beside(database: Path) -> RoomFacts:
    """Sizes, and what is free for whoever asks. Raises OSError."""
    log = log_of(database)
    return RoomFacts(
        path=str(database),
        octets=database.stat().st_size,
        log_octets=log.stat().st_size if log.exists() else 0,
        free_octets=free_octets(database.parent),
    )


def is_synchronized() -> bool | None:
    """Whether the kernel's clock is, by adjtimex(2); None where it does not say."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_OCTETS))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def is_in_unit() -> bool:
    """Whether systemd started us as, or in, a service."""
    return "INVOCATION_ID" in os.environ


def sandbox(configuration: Path, written: Iterable[Path]) -> SandboxFacts:
    """What this process may do; `written` are the directories that a role writes to."""
    no_new_privileges, seccomp, capabilities = _status("NoNewPrivs"), _status("Seccomp"), _status("CapBnd", base=16)
    return SandboxFacts(
        no_new_privileges=None if no_new_privileges is None else no_new_privileges == 1,
        seccomp=None if seccomp is None else seccomp == _SECCOMP_FILTER,
        capabilities=capabilities,
        can_make_code=_can_make_code(),
        core_octets=resource.getrlimit(resource.RLIMIT_CORE)[1],
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        configuration_is_read_only=_is_read_only(configuration),
        closed=tuple(str(path) for path in written if _is_read_only(path)),
    )


def _status(field: str, base: int = 10) -> int | None:
    """A number of /proc/self/status; None where that does not have it."""
    try:
        found = re.search(rf"^{field}:\s*(\w+)$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1], base)


def _is_read_only(path: Path) -> bool | None:
    """Whether its mount is; None where the path cannot be looked at."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return None


def _can_make_code() -> bool:
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True
