"""Databases for tests that are not about how one is made: a migration takes as long as many of them."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from kmp_smsd.storage.migrating import migrate
from tests.kept import kept_directory


def new_database(path: Path) -> None:
    """Put an empty database at `path`: a copy of one that `migrate` made, modes included."""
    shutil.copy(_migrated(), path)


@cache
def _migrated() -> Path:
    path = kept_directory() / "migrated.db"
    migrate(path)
    return path
