"""Stores of kmp-receive for tests that are not about how one is made: that takes a process."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.kept import kept_directory

RECEIVER = Path(__file__).resolve().parents[1] / "scripts" / "kmp-receive"


def new_store(path: Path) -> None:
    """Put an empty store at `path`: a copy of one that kmp-receive made, mode included."""
    shutil.copy(_made(), path)


def leave_copy(path: Path, copy: bytes) -> None:
    """Put `copy` where SQLite may leave one of a row that moved to another page: into the unused part of a small store.

    No receiver may have it open.
    """
    with open(path, "r+b") as file:
        (octets,) = struct.unpack(">16xH", file.read(18))
        file.seek(octets + octets // 2)  # its table has one page
        file.write(copy)


@cache
def _made() -> Path:
    path = kept_directory() / "keys.db"
    subprocess.run([sys.executable, RECEIVER, "--store", path, "init"], check=True)
    return path
