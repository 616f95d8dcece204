"""Databases for tests that are not about how one is made: a migration takes as long as many of them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from kmp_smsd.storage.maintenance import migrate


def new_database(path: Path) -> None:
    """Put an empty database at `path`: a copy of one that `migrate` made, modes included."""
    shutil.copy(_migrated(), path)


@cache
def _migrated() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="kmp-smsd-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = directory / "migrated.db"
    migrate(path)
    return path
