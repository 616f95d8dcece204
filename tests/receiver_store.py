"""Stores of kmp-receive for tests that are not about how one is made: that takes a process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.kept import kept_directory

RECEIVER = Path(__file__).resolve().parents[1] / "scripts" / "kmp-receive"


def new_store(path: Path) -> None:
    """Put an empty store at `path`: a copy of one that kmp-receive made, mode included."""
    shutil.copy(_made(), path)


@cache
def _made() -> Path:
    path = kept_directory() / "keys.db"
    subprocess.run([sys.executable, RECEIVER, "--store", path, "init"], check=True)
    return path
