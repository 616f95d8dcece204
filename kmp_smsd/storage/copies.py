"""Copies of a database beside it: the snapshot before a migration, and what takes its place in a restore."""

from __future__ import annotations

import os
from itertools import chain, count
from pathlib import Path
from typing import Any

_MADE_WITH_A_COPY = ("", "-journal", "-wal", "-shm", ".next", ".write", ".moving")


def write_copy(connection: Any, target: Path) -> None:
    """Copy the database into a new file that only we may read; where that fails, nothing is left of it."""
    # VACUUM INTO takes an empty file; what SQLite makes beside it gets its mode.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        connection.execute("VACUUM INTO ?", (str(target),))
    except BaseException:  # an interrupt too
        remove_copy(target)
        raise


def remove_copy(copy: Path) -> None:
    """Remove a copy, if it is there, with all that was made beside it."""
    for suffix in _MADE_WITH_A_COPY:
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def free_name(path: Path, what: str) -> Path:
    """A name for a copy beside `path` that says what it is; one that is not taken."""
    stem = f"{path.name}.{what}"
    names = chain([stem], (f"{stem}.{number}" for number in count(2)))
    return next(one for one in map(path.with_name, names) if not one.exists())
