"""What a person does about a disk that fails under us."""

from __future__ import annotations

import errno

_SQLITE_READONLY, _SQLITE_IOERR, _SQLITE_CORRUPT, _SQLITE_FULL = 8, 10, 11, 13  # the low octet of SQLite's error codes

_FULL = "make room on its volume"
# A process that goes on may read from memory what never reached the disk: unmounting forgets that.
_MEND = "stop both roles, mend it, unmount and mount it, start them"
# SQLite says so of some files where the disk is full, too.
_BROKEN = f"see whether its volume is full (df); where the kernel's log (dmesg) tells of errors of its disk, {_MEND}"
_READ_ONLY = (
    "let it be written (its mode, its mount, ReadWritePaths= of the unit);"
    f" where the kernel made it read-only, after errors (dmesg), {_MEND}"
)
_RESTORE = "stop both roles, and put the last backup in its place: 'kmp-smsd db restore FILE'"
_DAMAGED = f"'kmp-smsd db check' tells what is damaged; {_RESTORE}"
NO_DATABASE = f"correct [storage] path, or {_RESTORE}"

_FORBIDDEN = "owners and modes have to be as 'systemd-tmpfiles --create kmp-smsd.conf' sets them"
_BY_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EIO: _BROKEN,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _FORBIDDEN,
}
_BY_SQLITE_CODE = {
    _SQLITE_FULL: _FULL,
    _SQLITE_IOERR: _BROKEN,
    _SQLITE_CORRUPT: _DAMAGED,
    _SQLITE_READONLY: _READ_ONLY,
}


def remedy(cause: BaseException | None) -> str | None:
    """What to do about an error of the file system or of SQLite whose sentence names the file; None for others."""
    if isinstance(cause, OSError):
        return _BY_ERRNO.get(cause.errno or 0)
    return _BY_SQLITE_CODE.get(_code(cause))


def is_damage(cause: BaseException | None) -> bool:
    """Whether SQLite found the database itself damaged."""
    return _code(cause) == _SQLITE_CORRUPT


def _code(cause: BaseException | None) -> int:
    return int(getattr(cause, "sqlite_errorcode", 0)) & 0xFF
