"""Whether the files of a database are still those that were opened."""

from __future__ import annotations

import os
from pathlib import Path

from kmp_smsd.storage.errors import StoreUnavailable


class OpenFiles:
    """The files of the database at `path`, which has just been opened: itself, its log and the index of that."""

    def __init__(self, path: Path) -> None:
        self._files = [(one, _identity(one)) for one in _files_of(path)]

    @property
    def identity(self) -> str:
        """Which files they are, whatever lies at their paths by now; see `identity_of`."""
        return " ".join(identity for _, identity in self._files)

    def check(self) -> None:
        """Raise StoreUnavailable where somebody removed or replaced one: SQLite would write on into nothing."""
        for path, identity in self._files:
            try:
                stands = _identity(path) == identity
            except FileNotFoundError:
                stands = False
            if not stands:
                raise replaced(path)


def identity_of(path: Path) -> str:
    """Which files the database at `path` has: itself, its log and the index of that. Raises StoreUnavailable."""
    try:
        return " ".join(_identity(one) for one in _files_of(path))
    except FileNotFoundError:
        return ""  # none that can be open
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from error


def replaced(path: Path) -> StoreUnavailable:
    """What to raise where another file is in the place of the one that was opened, or none."""
    return StoreUnavailable(f"{path} was removed or replaced under us: stop both roles, restore it, start them")


def _files_of(path: Path) -> list[Path]:
    # Without the index (-shm), who comes later makes another and overwrites the log.
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def _identity(path: Path) -> str:
    status = os.stat(path)
    return f"{status.st_dev}:{status.st_ino}"
